//! A table of texts, with what its columns mean.

use crate::results::Unit;
use crate::statistics::median;
use crate::table::number;

/// One table.
pub(crate) struct Sheet {
    title: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Sheet {
    pub(crate) fn new(title: impl Into<String>, head: &[&'static str]) -> Self {
        Self { title: title.into(), head: head.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text =
            format!("### {}\n\n| {} |\n|{}\n", self.title, self.head.join(" | "), "---|".repeat(self.head.len()));
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        if !self.notes.is_empty() {
            text.push_str(&format!("\n{}\n", self.notes.join("\n")));
        }
        text
    }
}

/// The median of what the rounds measured.
pub(crate) fn middle(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    median(values.into_iter().flatten())
}

/// A number with its unit; a dash where nothing was measured.
pub(crate) fn or_dash(value: Option<f64>, unit: Unit) -> String {
    value.map_or_else(|| "–".to_owned(), |value| number(value, unit))
}

/// Two times in microseconds.
pub(crate) fn pair(first: Option<f64>, second: Option<f64>) -> String {
    format!("{} / {}", or_dash(first, Unit::Microseconds), or_dash(second, Unit::Microseconds))
}

/// What was aimed at, and whether it is so.
pub(crate) fn aim(text: impl std::fmt::Display, met: bool) -> String {
    format!("{text}: {}", if met { "met" } else { "short" })
}

/// No aim.
pub(crate) fn no_aim() -> String {
    "–".to_owned()
}
