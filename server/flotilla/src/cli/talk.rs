//! Everything said to a person: on stderr, with colours where they are welcome (`NO_COLOR` and
//! terminals are anstream's business).

use std::io::Write;

use anstyle::{AnsiColor, Style};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const QUIET: Style = Style::new().dimmed();
pub(super) const HEADING: Style = Style::new().bold();

/// What went wrong.
pub(super) fn error(text: &str) {
    say(&format!("{ERROR}error:{ERROR:#} {text}"));
}

/// What a person should know although the command goes on.
pub(super) fn warning(text: &str) {
    say(&format!("{WARNING}warning:{WARNING:#} {text}"));
}

/// A remark.
pub(super) fn remark(text: &str) {
    say(&format!("{QUIET}{text}{QUIET:#}"));
}

/// As it is. If stderr is closed, nobody wanted to hear it.
pub(super) fn say(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
