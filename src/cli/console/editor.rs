//! The line editor: history, completion of commands, colour.

use std::borrow::Cow;
use std::io;

use nu_ansi_term::{Color, Style};
use reedline::{
    ColumnarMenu, Completer, CompletionResult, DefaultHinter, Emacs, FileBackedHistory,
    Highlighter, KeyCode, KeyModifiers, MenuBuilder, Prompt, PromptEditMode, PromptHistorySearch,
    Reedline, ReedlineEvent, ReedlineMenu, Signal, Span, StyledText, Suggestion,
    default_emacs_keybindings,
};

/// Commands and how they are used.
const COMMANDS: [(&str, &str); 13] = [
    ("SET", "<key> <value>: store a value"),
    ("GET", "<key>: the value"),
    ("UPD", "<key> <value>: store a value if the key exists"),
    ("DEL", "<key>: delete"),
    ("NODES", "the live nodes"),
    ("FILES", "how many records each node holds"),
    ("WHERE", "<key>: partition, copies, version"),
    ("STATUS", "the cluster in a few lines"),
    ("PING", "is anybody there?"),
    ("HELP", "the commands of the server"),
    ("MODE", "simple | register | plain: form of the replies"),
    ("QUIT", "end"),
    ("EXIT", "end"),
];
const HISTORY_LINES: usize = 10_000;
const MENU: &str = "commands";

/// What came from the terminal.
#[derive(Debug)]
pub(super) enum Input {
    /// A request.
    Line(String),
    /// Nothing to be sent.
    Again,
    /// Ctrl-D.
    End,
}

/// The terminal.
pub(super) struct Editor {
    reedline: Reedline,
    prompt: Address,
}

impl Editor {
    pub(super) fn new(address: &str) -> Self {
        let mut keys = default_emacs_keybindings();
        let complete = vec![ReedlineEvent::Menu(MENU.to_owned()), ReedlineEvent::MenuNext];
        keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, ReedlineEvent::UntilFound(complete));
        let menu = ColumnarMenu::default().with_name(MENU);
        let hint = Style::new().fg(Color::DarkGray);
        let mut reedline = Reedline::create()
            .with_edit_mode(Box::new(Emacs::new(keys)))
            .with_completer(Box::new(Commands))
            .with_quick_completions(true)
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
            .with_hinter(Box::new(DefaultHinter::default().with_style(hint)))
            .with_highlighter(Box::new(Commands));
        if let Some(history) = history() {
            reedline = reedline.with_history(Box::new(history));
        }
        Self { reedline, prompt: Address(address.to_owned()) }
    }

    /// The next line. Lines that cannot be sent are explained here.
    pub(super) fn read(&mut self) -> io::Result<Input> {
        let line = match self.reedline.read_line(&self.prompt).map_err(io::Error::other)? {
            Signal::Success(line) => line,
            Signal::CtrlD => return Ok(Input::End),
            _ => return Ok(Input::Again),
        };
        if line.trim().is_empty() {
            return Ok(Input::Again);
        }
        if super::is_unreadable(line.as_bytes()) {
            anstream::eprintln!("mode detailed is for people at nc; this client cannot show it");
            return Ok(Input::Again);
        }
        Ok(Input::Line(line))
    }
}

/// The history of earlier conversations. Without a place for it there is just none.
fn history() -> Option<FileBackedHistory> {
    let file = std::env::home_dir()?.join(".local/state/hatokuse/history");
    FileBackedHistory::with_file(HISTORY_LINES, file).ok()
}

/// Knows the commands: completes the first word of a line, and colours it.
struct Commands;

impl Completer for Commands {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let typed = line.get(..pos).unwrap_or(line);
        CompletionResult::fresh(suggestions(typed))
    }
}

fn suggestions(typed: &str) -> Vec<Suggestion> {
    if typed.contains(' ') {
        return Vec::new();
    }
    let matches =
        |name: &str| name.get(..typed.len()).is_some_and(|start| start.eq_ignore_ascii_case(typed));
    COMMANDS
        .iter()
        .filter(|(name, _)| matches(name))
        .map(|(name, usage)| Suggestion {
            value: (*name).to_owned(),
            description: Some((*usage).to_owned()),
            span: Span::new(0, typed.len()),
            append_whitespace: usage.starts_with('<'),
            ..Suggestion::default()
        })
        .collect()
}

impl Highlighter for Commands {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let (word, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
        let known = COMMANDS.iter().any(|(name, _)| name.eq_ignore_ascii_case(word));
        let style = if known { Style::new().fg(Color::Green).bold() } else { Style::new() };
        let mut styled = StyledText::new();
        styled.push((style, word.to_owned()));
        styled.push((Style::new(), rest.to_owned()));
        styled
    }
}

/// The prompt: whom one talks to.
struct Address(String);

impl Prompt for Address {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("| ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!(" (search: {}) ", search.term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_completed_in_any_case_but_only_as_the_first_word() {
        let names = |typed: &str| -> Vec<_> {
            suggestions(typed).into_iter().map(|found| found.value).collect()
        };
        assert_eq!(names("s"), ["SET", "STATUS"]);
        assert_eq!(names("Sta"), ["STATUS"]);
        assert_eq!(names(""), COMMANDS.map(|(name, _)| name));
        assert!(names("SET s").is_empty());
        assert!(names("\u{131}").is_empty());
    }
}
