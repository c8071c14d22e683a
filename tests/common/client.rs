//! The smallest client that can be: lines out, lines in. It shares no code with ours.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// As long as the course's client waits for a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(15);

/// One connection.
#[derive(Debug)]
pub(crate) struct LineClient {
    writing: TcpStream,
    reading: BufReader<TcpStream>,
}

impl LineClient {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let writing = TcpStream::connect_timeout(&address, REPLY_WITHIN)?;
        writing.set_nodelay(true)?;
        writing.set_read_timeout(Some(REPLY_WITHIN))?;
        let reading = BufReader::new(writing.try_clone()?);
        Ok(Self { writing, reading })
    }

    /// Sends a line, and returns the first line of the reply.
    pub(crate) fn try_ask(&mut self, line: &str) -> io::Result<String> {
        self.send(format!("{line}\n").as_bytes())?;
        self.line()
    }

    /// Sends a line, and returns the first line of the reply, which must come.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        let shown: String = line.chars().take(60).collect();
        self.try_ask(line).unwrap_or_else(|error| panic!("no reply to `{shown}`: {error}"))
    }

    /// Sends a line, and returns the lines before the final `OK`.
    pub(crate) fn rows(&mut self, line: &str) -> Vec<String> {
        let mut rows = vec![self.ask(line)];
        loop {
            let last = rows.pop().unwrap();
            assert!(!last.starts_with("ERROR"), "`{line}` was answered: {last}");
            if last == "OK" {
                return rows;
            }
            rows.push(last);
            rows.push(self.line().unwrap());
        }
    }

    /// Sends all lines at once and returns the first line of each reply.
    pub(crate) fn pipeline(&mut self, lines: &[String]) -> Vec<String> {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let mut writing = self.writing.try_clone().unwrap();
        // What is sent may be more than the sockets hold before replies are read.
        let sending = thread::spawn(move || writing.write_all(text.as_bytes()));
        let replies = lines.iter().map(|line| {
            let shown: String = line.chars().take(60).collect();
            self.line().unwrap_or_else(|error| panic!("no reply to `{shown}`: {error}"))
        });
        let replies = replies.collect();
        sending.join().unwrap().unwrap();
        replies
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.write_all(bytes)
    }

    /// The next line, without its end; an error if the connection has ended.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reading.read_line(&mut line)?;
        let text = line.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(text.to_owned())
    }

    /// Everything until the server closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        io::Read::read_to_string(&mut self.reading, &mut rest).unwrap();
        rest
    }
}
