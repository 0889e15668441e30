//! Data on stdout: one message, a list, or a stream of them, as a table, JSON or YAML.

use std::{
    borrow::Cow,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
};

use clap::ValueEnum;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::{
    Failure,
    json::{Named, to_json},
    row::Row,
};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns, for people
    Table,
    /// One document; of a stream one object a line
    Json,
    /// One document; of a stream many
    Yaml,
}

impl Format {
    /// A table for a person, JSON for a program.
    pub(super) fn fitting() -> Self {
        if io::stdout().is_terminal() { Self::Table } else { Self::Json }
    }

    /// As the client's file names it.
    pub(super) fn parse(name: &str) -> Result<Self, Failure> {
        Self::from_str(name, false).map_err(|_| Failure::FileValue { key: "output", value: name.to_owned() })
    }
}

/// Where data goes.
pub(super) struct Output {
    format: Format,
    out: BufWriter<Stdout>,
    /// The widths of the columns of a table that goes on; empty before its heading.
    widths: Vec<usize>,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format, out: BufWriter::new(io::stdout()), widths: Vec::new() }
    }

    /// One message.
    pub(super) fn one<M: Named + Row>(&mut self, message: &M) -> Result<(), Failure> {
        self.document(&to_json(message), std::slice::from_ref(message))
    }

    /// One document, of which a table shows these rows.
    pub(super) fn document<R: Row>(&mut self, document: &Value, rows: &[R]) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.rows(rows)?,
            Format::Json => self.line(&format!("{document:#}"))?,
            Format::Yaml => self.write(&yaml(document))?,
        }
        self.flush()
    }

    /// One message, which a person reads as this line.
    pub(super) fn told<M: Named>(&mut self, message: &M, line: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => {
                self.line(&printable(line))?;
                self.flush()
            }
            Format::Json | Format::Yaml => self.document::<NoRow>(&to_json(message), &[]),
        }
    }

    /// Whether a person reads it: then names are worth looking up.
    pub(super) fn is_for_a_person(&self) -> bool {
        self.format == Format::Table
    }

    /// A list, under the name that it has in the API.
    pub(super) fn list(&mut self, name: &'static str) -> List<'_> {
        List { output: self, name, count: 0 }
    }

    /// One message of a stream, under the name of what it is: `event`, `snapshot`, `reset`.
    pub(super) fn item<M: Named>(&mut self, name: &str, message: &M, line: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.line(&printable(line))?,
            Format::Json => self.line(&json!({ name: to_json(message) }).to_string())?,
            Format::Yaml => {
                self.write("---\n")?;
                self.write(&yaml(&json!({ name: to_json(message) })))?;
            }
        }
        Ok(())
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(Failure::Output)?;
        self.flush()
    }

    /// Hands everything over.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }

    /// The next rows of a table; columns keep their widths unless a cell needs more.
    fn rows<R: Row>(&mut self, rows: &[R]) -> Result<(), Failure> {
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| row.cells().iter().map(|cell| printable(cell).into_owned()).collect()).collect();
        let heading: Vec<String> = R::COLUMNS.iter().map(|&name| name.to_owned()).collect();
        let begins = self.widths.is_empty();
        if begins {
            self.widths = heading.iter().map(|name| name.width()).collect();
        }
        for row in &cells {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        for row in begins.then_some(&heading).into_iter().chain(&cells) {
            let line = aligned(row, &self.widths);
            self.line(&line)?;
        }
        Ok(())
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text)?;
        self.write("\n")
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).map_err(Failure::Output)
    }
}

/// A list that is printed as its pages come.
pub(super) struct List<'a> {
    output: &'a mut Output,
    name: &'static str,
    count: usize,
}

impl List<'_> {
    /// The next page.
    pub(super) fn page<M: Named + Row>(&mut self, messages: &[M]) -> Result<(), Failure> {
        self.page_as(messages, messages)
    }

    /// The next page, of which a table shows these rows.
    pub(super) fn page_as<M: Named, R: Row>(&mut self, messages: &[M], rows: &[R]) -> Result<(), Failure> {
        if self.output.format == Format::Table {
            self.output.rows(rows)?;
        }
        self.messages(messages)
    }

    /// The next page, which a person reads as these lines.
    pub(super) fn lines<M: Named>(&mut self, messages: &[M], lines: &[String]) -> Result<(), Failure> {
        if self.output.format == Format::Table {
            for line in lines {
                self.output.line(&printable(line))?;
            }
        }
        self.messages(messages)
    }

    /// The messages of a page, where they are printed themselves.
    fn messages<M: Named>(&mut self, messages: &[M]) -> Result<(), Failure> {
        match self.output.format {
            Format::Table => {}
            Format::Json => {
                for message in messages {
                    let before = if self.count == 0 { format!("{{\"{}\": [\n", self.name) } else { ",\n".to_owned() };
                    self.output.write(&format!("{before}  {}", to_json(message)))?;
                    self.count += 1;
                }
            }
            Format::Yaml => {
                for message in messages {
                    if self.count == 0 {
                        self.output.line(&format!("{}:", self.name))?;
                    }
                    self.output.write(&yaml(&Value::Array(vec![to_json(message)])))?;
                    self.count += 1;
                }
            }
        }
        self.output.flush()
    }

    /// There is no more.
    pub(super) fn end(self) -> Result<(), Failure> {
        let text = match (self.output.format, self.count) {
            (Format::Table, _) => String::new(),
            (Format::Json, 0) => format!("{{\"{}\": []}}\n", self.name),
            (Format::Json, _) => "\n]}\n".to_owned(),
            (Format::Yaml, 0) => format!("{}: []\n", self.name),
            (Format::Yaml, _) => String::new(),
        };
        self.output.write(&text)?;
        self.output.flush()
    }
}

fn yaml(value: &Value) -> String {
    // What was JSON can be YAML.
    let mut text = serde_saphyr::to_string(value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.push_str(&" ".repeat((width + 2).saturating_sub(cell.width())));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Without what would move the cursor, recolour the terminal, or turn the direction of writing:
/// such characters are shown as they would be written in a program, `\n` or `\u{1b}`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// The row of a document that has none.
struct NoRow;

impl Row for NoRow {
    const COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let cells = ["船".to_owned(), "x".to_owned()];
        assert_eq!(aligned(&cells, &[4, 1]), "船    x");
    }

    #[test]
    fn a_list_of_one_item_is_yaml_under_its_name() {
        assert_eq!(yaml(&json!([{"id": "a", "rows": 1}])), "- id: a\n  rows: 1\n");
    }

    #[test]
    fn escape_sequences_in_data_dont_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n\u{202e}ö"), "a\\u{1b}[31mb\\n\\u{202e}ö");
    }
}
