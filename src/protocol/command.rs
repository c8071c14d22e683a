//! What a client asks for, whatever dialect it asked in.

use bytes::Bytes;

use crate::types::Key;

/// The commands of the line protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Store a value.
    Set,
    /// Read a value.
    Get,
    /// Store a value if the key exists.
    Update,
    /// Delete a key.
    Delete,
    /// List the live nodes.
    Nodes,
    /// Count the records of the live nodes.
    Files,
    /// Where a key lives.
    Where,
    /// The state of the cluster.
    Status,
    /// Is anybody there?
    Ping,
    /// The list of commands.
    Help,
    /// Choose the form of the replies.
    Mode,
    /// Close the connection.
    Quit,
}

impl Command {
    /// Every command, in the order in which `HELP` shows them.
    pub const ALL: [Self; 12] = [
        Self::Set,
        Self::Get,
        Self::Update,
        Self::Delete,
        Self::Nodes,
        Self::Files,
        Self::Where,
        Self::Status,
        Self::Ping,
        Self::Help,
        Self::Mode,
        Self::Quit,
    ];

    /// The command that this word names, in any case.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        if word.eq_ignore_ascii_case(b"EXIT") {
            return Some(Self::Quit);
        }
        Self::ALL.into_iter().find(|command| word.eq_ignore_ascii_case(command.word().as_bytes()))
    }

    /// The word a client sends.
    pub fn word(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Get => "GET",
            Self::Update => "UPD",
            Self::Delete => "DEL",
            Self::Nodes => "NODES",
            Self::Files => "FILES",
            Self::Where => "WHERE",
            Self::Status => "STATUS",
            Self::Ping => "PING",
            Self::Help => "HELP",
            Self::Mode => "MODE",
            Self::Quit => "QUIT",
        }
    }

    /// How it is written, with its arguments.
    pub fn usage(self) -> &'static str {
        match self {
            Self::Set => "SET <key> <value>",
            Self::Get => "GET <key>",
            Self::Update => "UPD <key> <value>",
            Self::Delete => "DEL <key>",
            Self::Where => "WHERE <key>",
            Self::Mode => "MODE simple",
            other => other.word(),
        }
    }

    /// What it does, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Set => "stores the value",
            Self::Get => "answers OK and the value",
            Self::Update => "stores the value if the key exists",
            Self::Delete => "deletes the key",
            Self::Nodes => "lists the live nodes",
            Self::Files => "counts the records of each live node",
            Self::Where => "shows where a key lives",
            Self::Status => "shows the state of the cluster",
            Self::Ping => "answers PONG",
            Self::Help => "shows this list",
            Self::Mode => "chooses the form of the replies",
            Self::Quit => "closes the connection (also EXIT)",
        }
    }
}

/// A well-formed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// About one key; the shard that owns its partition answers.
    Key(Operation),
    /// About the cluster; the gateway answers from what the leader has published.
    Cluster(Question),
    /// About the connection, which answers by itself.
    Connection(Local),
}

impl Request {
    /// The command it was made with.
    pub fn command(&self) -> Command {
        match self {
            Self::Key(operation) => operation.command(),
            Self::Cluster(Question::Nodes) => Command::Nodes,
            Self::Cluster(Question::Files) => Command::Files,
            Self::Cluster(Question::Status) => Command::Status,
            Self::Connection(Local::Ping) => Command::Ping,
            Self::Connection(Local::Help) => Command::Help,
            Self::Connection(Local::Mode(_)) => Command::Mode,
            Self::Connection(Local::Quit) => Command::Quit,
        }
    }
}

/// What is asked about one key.
///
/// Key and value are slices of what was read from the socket, which they keep alive as a whole:
/// whoever stores them for long copies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read the value.
    Get {
        /// Of this key.
        key: Key,
    },
    /// Store the value.
    Set {
        /// Under this key.
        key: Key,
        /// Any bytes, perhaps none.
        value: Bytes,
    },
    /// Store the value if the key exists.
    Update {
        /// Under this key.
        key: Key,
        /// Any bytes, perhaps none.
        value: Bytes,
    },
    /// Delete the key; no error if there is none.
    Delete {
        /// This key.
        key: Key,
    },
    /// Where the key lives.
    Where {
        /// This key.
        key: Key,
    },
}

impl Operation {
    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Get { key }
            | Self::Set { key, .. }
            | Self::Update { key, .. }
            | Self::Delete { key }
            | Self::Where { key } => key,
        }
    }

    /// The command it was made with.
    pub fn command(&self) -> Command {
        match self {
            Self::Get { .. } => Command::Get,
            Self::Set { .. } => Command::Set,
            Self::Update { .. } => Command::Update,
            Self::Delete { .. } => Command::Delete,
            Self::Where { .. } => Command::Where,
        }
    }

    /// How many bytes of key and value it carries.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Set { key, value } | Self::Update { key, value } => key.0.len() + value.len(),
            Self::Get { key } | Self::Delete { key } | Self::Where { key } => key.0.len(),
        }
    }
}

/// What is asked about the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which nodes are live.
    Nodes,
    /// How many records each holds.
    Files,
    /// How it does.
    Status,
}

/// What a connection answers without asking anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `PONG`.
    Ping,
    /// The list of commands.
    Help,
    /// The form of the replies from now on.
    Mode(Mode),
    /// `OK`, and the end of the connection.
    Quit,
}

/// The form of the replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One line that begins with `OK` or `ERROR`.
    #[default]
    Simple,
    /// `GET` answers `VALUE <value>`.
    Register,
    /// `GET` answers the value alone.
    Plain,
    /// A greeting and lines of progress, for people.
    Detailed,
}

impl Mode {
    /// Every mode, built or reserved.
    pub const ALL: [Self; 4] = [Self::Simple, Self::Register, Self::Plain, Self::Detailed];

    /// The mode with this name, in any case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| name.eq_ignore_ascii_case(mode.name().as_bytes()))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Register => "register",
            Self::Plain => "plain",
            Self::Detailed => "detailed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_in_any_case_and_exit_is_quit() {
        for command in Command::ALL {
            let word = command.word().to_lowercase();
            assert_eq!(Command::from_word(word.as_bytes()), Some(command));
            assert!(command.usage().starts_with(command.word()));
        }
        assert_eq!(Command::from_word(b"eXiT"), Some(Command::Quit));
        assert_eq!(Command::from_word(b"SETT"), None);
        assert_eq!(Command::from_word(b""), None);
    }
}
