//! `config.yaml` as a list of assignments, each with its line.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::error::{ConfigError, Origin};
use super::{File, keys, suggestion};

/// Keys and values, in order, each with its place.
pub(super) type Entries = Vec<(Spanned<String>, Spanned<Node>)>;

/// A value as it was written, before anybody knows what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing after the colon.
    Empty,
    /// One word or number.
    Text(String),
    /// A list.
    List(Vec<Spanned<Node>>),
    /// Keys and values.
    Map(Entries),
}

/// A key, its value, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) path: String,
    pub(super) node: Node,
    pub(super) origin: Origin,
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a section")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Empty)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// Reads the document. Two keys of one name, unknown sections and text that is not YAML are errors.
pub(super) fn assignments(file: &File) -> Result<Vec<Assignment>, ConfigError> {
    let at = |line| Origin::Line { file: file.name.clone(), line };
    let options = serde_yaml::options! { strict_booleans: true };
    let read = serde_yaml::from_str_with_options::<Spanned<Node>>(&file.text, options);
    let root = read.map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        ConfigError::new(&at(line), explain(&error))
    })?;
    let sections = match root.value {
        Node::Empty => Vec::new(),
        Node::Map(sections) => sections,
        Node::Text(_) | Node::List(_) => {
            let problem = format!("there must be sections here: {}", keys::SECTIONS.join(", "));
            return Err(ConfigError::new(&at(root.referenced.line()), problem));
        }
    };
    let mut assignments = Vec::new();
    for (section, entries) in sections {
        let origin = at(section.referenced.line());
        let section = section.value;
        if !keys::SECTIONS.contains(&section.as_str()) {
            let problem = suggestion::unknown(&section, "section", &keys::SECTIONS);
            return Err(ConfigError::new(&origin, problem));
        }
        for (key, node) in entries_of(&section, entries.value, &origin)? {
            let origin = at(key.referenced.line());
            let path = format!("{section}.{}", key.value);
            assignments.push(Assignment { path, node: node.value, origin });
        }
    }
    Ok(assignments)
}

/// The keys of a section, which may also be left empty.
fn entries_of(section: &str, node: Node, origin: &Origin) -> Result<Entries, ConfigError> {
    match node {
        Node::Empty => Ok(Vec::new()),
        Node::Map(entries) => Ok(entries),
        Node::Text(_) | Node::List(_) => {
            let problem = format!("{section} is a section; write its keys below it, indented");
            Err(ConfigError::new(origin, problem))
        }
    }
}

/// What the parser found, in words for people who do not program it.
fn explain(error: &serde_yaml::Error) -> String {
    let error = error.without_snippet();
    match error {
        serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key} is written twice; leave one out")
        }
        serde_yaml::Error::MultipleDocuments { .. } => {
            "a second document begins here (---); write one".into()
        }
        _ => {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            let without_place = first.split(" at line ").next().unwrap_or(first);
            format!("this is not YAML: {without_place}")
        }
    }
}
