//! One client: a connection, and what the answers mean.

use std::time::Duration;

use tokio::time::timeout;

use crate::client::{Client, ClientError, Options as ClientOptions, Request};
use crate::logic::history::{Kind, Outcome};
use crate::types::Key;

/// How long one attempt to connect may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The longest line that is accepted as an answer: the largest value a leader may be configured for.
const MAX_REPLY_BYTES: usize = 1 << 30;

/// What came of a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// The code of the error, or a word for what the connection did, if it was no success.
    pub(super) error: Option<String>,
    /// What no server should ever answer, in words.
    pub(super) complaint: Option<String>,
}

impl Answer {
    fn plain(outcome: Outcome) -> Self {
        Self { outcome, error: None, complaint: None }
    }
}

/// A client of one of several leaders.
#[derive(Debug)]
pub(super) struct Asker {
    addresses: Vec<String>,
    turn: usize,
    within: Duration,
    client: Client,
}

impl Asker {
    pub(super) fn new(addresses: Vec<String>, turn: usize, within: Duration) -> Self {
        let client = client_of(&addresses, turn, within);
        Self { addresses, turn, within, client }
    }

    /// Whether there is a connection; if not, the next attempt goes to the next address.
    pub(super) async fn connect(&mut self) -> bool {
        let connected = self.client.connect().await.is_ok();
        if !connected {
            self.turn = self.turn.wrapping_add(1);
            self.client = client_of(&self.addresses, self.turn, self.within);
        }
        connected
    }

    /// Asks, and says what is known afterwards.
    pub(super) async fn ask(&mut self, key: &Key, kind: &Kind) -> Answer {
        let request = match kind {
            Kind::Get => Request::get(key.as_bytes()),
            Kind::Set(value) => Request::set(key.as_bytes(), value),
            Kind::Update(value) => Request::update(key.as_bytes(), value),
            Kind::Delete => Request::delete(key.as_bytes()),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return understand(kind, Err(error.into())),
        };
        // A call that is given up takes its connection with it, and with that its late answer.
        match timeout(self.within, self.client.call(&request)).await {
            Err(_) => lost("no answer in time"),
            Ok(Err(error)) => understand(kind, Err(error)),
            Ok(Ok(reply)) if *kind == Kind::Get => {
                understand(kind, reply.value().map(|value| Told::Read(value.as_ref().map(copy))))
            }
            Ok(Ok(reply)) => understand(kind, reply.written().map(|_| Told::Written)),
        }
    }
}

/// A value is a part of what one read from the socket brought, all of which it would keep.
fn copy(value: &bytes::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(value)
}

fn client_of(addresses: &[String], turn: usize, within: Duration) -> Client {
    let address = addresses.get(turn.checked_rem(addresses.len()).unwrap_or(0));
    let mut options = ClientOptions::new(address.cloned().unwrap_or_default());
    options.connect_timeout = CONNECT_WITHIN;
    options.reply_timeout = within;
    options.max_reply_bytes = MAX_REPLY_BYTES;
    Client::new(options)
}

/// A success.
#[derive(Debug)]
enum Told {
    Read(Option<bytes::Bytes>),
    Written,
}

/// What an answer says about the key.
fn understand(kind: &Kind, told: Result<Told, ClientError>) -> Answer {
    let version = None;
    let error = match told {
        Ok(Told::Read(Some(value))) => return Answer::plain(Outcome::Value { version, value }),
        Ok(Told::Read(None)) => return Answer::plain(Outcome::NotFound { version }),
        Ok(Told::Written) => return Answer::plain(Outcome::Stored { version }),
        Err(error) => error,
    };
    let code = match &error {
        ClientError::Connect { .. } => {
            let error = Some("no connection".to_owned());
            return Answer { outcome: Outcome::Failed, error, complaint: None };
        }
        ClientError::Disconnected { .. } => return lost("connection lost"),
        ClientError::Timeout { .. } => return lost("no answer in time"),
        ClientError::Refused(refusal) => refusal.code.clone(),
        ClientError::Request(_) => "not sent".to_owned(),
        ClientError::TooLong { .. } | ClientError::Unexpected { .. } => "no sense".to_owned(),
    };
    let (outcome, expected) = match (code.as_str(), kind) {
        ("NOT_FOUND", Kind::Update(_)) => return Answer::plain(Outcome::NotFound { version }),
        ("UNCERTAIN", Kind::Set(_) | Kind::Update(_) | Kind::Delete) => (Outcome::Uncertain, true),
        ("UNAVAILABLE" | "NOT_ENOUGH_NODES" | "BUSY" | "DISK_FULL", _) => (Outcome::Failed, true),
        ("no sense" | "UNCERTAIN" | "NOT_FOUND", _) => (Outcome::Pending, false),
        _ => (Outcome::Failed, false),
    };
    let word = match kind {
        Kind::Get => "GET",
        Kind::Set(_) => "SET",
        Kind::Update(_) => "UPD",
        Kind::Delete => "DEL",
    };
    let complaint = (!expected).then(|| format!("{word} was answered: {error}"));
    Answer { outcome, error: Some(code), complaint }
}

/// Nobody knows.
fn lost(how: &str) -> Answer {
    Answer { outcome: Outcome::Pending, error: Some(how.to_owned()), complaint: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Refusal;

    fn refused(kind: &Kind, code: &str) -> Answer {
        let refusal = Refusal { code: code.to_owned(), text: "why".to_owned() };
        understand(kind, Err(ClientError::Refused(refusal)))
    }

    #[test]
    fn an_error_means_what_the_protocol_says() {
        let set = Kind::Set("v".into());
        let update = Kind::Update("v".into());
        assert_eq!(refused(&set, "UNCERTAIN").outcome, Outcome::Uncertain);
        assert_eq!(refused(&set, "NOT_ENOUGH_NODES").outcome, Outcome::Failed);
        assert_eq!(refused(&Kind::Get, "UNAVAILABLE").outcome, Outcome::Failed);
        assert_eq!(refused(&update, "NOT_FOUND").outcome, Outcome::NotFound { version: None });
        let broken = ClientError::Disconnected { address: "there".to_owned(), source: None };
        assert_eq!(understand(&set, Err(broken)).outcome, Outcome::Pending);
    }

    #[test]
    fn an_answer_that_none_should_give_is_complained_of() {
        let set = Kind::Set("v".into());
        for (kind, code) in [
            (&set, "NOT_FOUND"),
            (&Kind::Get, "UNCERTAIN"),
            (&Kind::Get, "DAMAGED"),
            (&set, "USAGE"),
            (&Kind::Delete, "NONSENSE"),
        ] {
            let answer = refused(kind, code);
            assert!(answer.complaint.is_some(), "{kind:?} {code}: {answer:?}");
        }
        assert!(refused(&set, "BUSY").complaint.is_none());
    }
}
