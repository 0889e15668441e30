//! What a terminal shows: the same numbers for a person who watches, and in plain lines.

use std::{collections::VecDeque, fmt::Write, time::Duration};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Sparkline, Table},
};

use super::numbers::{Method, Numbers};

/// Seconds of the past that are shown.
const HISTORY: Duration = Duration::from_secs(60);
/// A terminal narrower than this gets one column of numbers, and fewer of methods.
const NARROW: u16 = 64;

/// Everything that is shown.
pub(super) struct View {
    endpoint: String,
    numbers: Option<Numbers>,
    problem: Option<String>,
    calls: History,
    writes: History,
}

/// The values of the last minute.
struct History {
    values: VecDeque<u64>,
    kept: usize,
}

impl History {
    fn push(&mut self, value: f64) {
        if self.values.len() == self.kept {
            self.values.pop_front();
        }
        // A float becomes the nearest integer there is.
        self.values.push_back(value.round() as u64);
    }
}

impl View {
    /// An empty one; every so often there will be numbers.
    pub(super) fn new(endpoint: String, interval: Duration) -> Self {
        let kept = (HISTORY.as_secs_f64() / interval.as_secs_f64()).ceil().clamp(2.0, 600.0) as usize;
        let history = || History { values: VecDeque::new(), kept };
        Self { endpoint, numbers: None, problem: None, calls: history(), writes: history() }
    }

    /// There are new numbers.
    pub(super) fn show(&mut self, numbers: Numbers) {
        self.calls.push(numbers.calls);
        self.writes.push(numbers.writes);
        self.problem = None;
        self.numbers = Some(numbers);
    }

    /// The server answered, but there is nothing to compare it with yet.
    pub(super) fn reached(&mut self) {
        self.problem = None;
    }

    /// The server can't be reached; the last numbers stay.
    pub(super) fn fail(&mut self, problem: String) {
        self.problem = Some(problem);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let narrow = frame.area().width < NARROW;
        let pairs = self.numbers.as_ref().map(pairs).unwrap_or_default();
        let rows = if narrow { pairs.len() } else { pairs.len().div_ceil(3) };
        let constraints = [
            Constraint::Length(1),
            Constraint::Length(4),
            Constraint::Length(rows as u16 + 1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [title, past, numbers, methods, footer] = Layout::vertical(constraints).areas(frame.area());
        frame.render_widget(Line::from(self.title()).bold(), title);
        let [calls, writes] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(past);
        let rate = |of: fn(&Numbers) -> f64| {
            self.numbers.as_ref().map_or_else(|| "–".to_owned(), |numbers| number(of(numbers)))
        };
        draw_past(frame, calls, &format!("calls/s {}", rate(|numbers| numbers.calls)), &self.calls, Color::Cyan);
        draw_past(frame, writes, &format!("writes/s {}", rate(|numbers| numbers.writes)), &self.writes, Color::Green);
        draw_pairs(frame, numbers, &pairs, if narrow { 1 } else { 3 });
        let busiest: &[Method] = match &self.numbers {
            Some(numbers) => &numbers.methods,
            None => &[],
        };
        draw_methods(frame, methods, busiest, narrow);
        frame.render_widget(self.footer(), footer);
    }

    fn title(&self) -> String {
        let mut title = format!("flotilla top  {}", self.endpoint);
        if let Some(numbers) = &self.numbers {
            let _ = write!(title, "  {}", state(numbers));
        }
        title
    }

    fn footer(&self) -> Line<'_> {
        match (&self.problem, &self.numbers) {
            (Some(problem), _) => {
                Line::from(format!("{} can't be reached, trying again: {problem}", self.endpoint)).fg(Color::Red)
            }
            (None, None) => Line::from(format!("asking {} …   q quits", self.endpoint)).dim(),
            (None, Some(_)) => Line::from("q quits").dim(),
        }
    }
}

fn draw_past(frame: &mut Frame<'_>, area: Rect, title: &str, history: &History, colour: Color) {
    let block = Block::default().borders(Borders::TOP).title(title.to_owned());
    // The newest stands at the right; what has no room are the oldest.
    let room = usize::from(area.width.saturating_sub(1));
    let skipped = history.values.len().saturating_sub(room);
    let values: Vec<u64> = history.values.iter().skip(skipped).copied().collect();
    frame.render_widget(Sparkline::default().block(block).data(&values).style(Style::default().fg(colour)), area);
}

fn draw_pairs(frame: &mut Frame<'_>, area: Rect, pairs: &[(&str, String)], columns: usize) {
    let rows = pairs.len().div_ceil(columns).max(1);
    let areas = Layout::horizontal(vec![Constraint::Fill(1); columns]).split(area);
    for (area, pairs) in areas.iter().zip(pairs.chunks(rows)) {
        let line = |(name, value): &(&str, String)| {
            Line::from(vec![Span::from(format!("{name:<13}")).dim(), Span::from(value.clone())])
        };
        frame.render_widget(Paragraph::new(pairs.iter().map(line).collect::<Vec<_>>()), *area);
    }
}

fn draw_methods(frame: &mut Frame<'_>, area: Rect, methods: &[Method], narrow: bool) {
    let cells = |method: &Method| {
        let cells = vec![
            method.name.clone(),
            format!("{:>8}", number(method.calls)),
            format!("{:>8}", number(method.errors)),
            format!("{:>8}", seconds(method.p50)),
            format!("{:>8}", seconds(method.p99)),
        ];
        Row::new(fewer(cells, narrow))
    };
    let heading = ["METHOD", " CALLS/S", "ERRORS/S", "     P50", "     P99"].map(str::to_owned).to_vec();
    let widths = fewer(
        vec![
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ],
        narrow,
    );
    let table = Table::new(methods.iter().map(cells), widths).header(Row::new(fewer(heading, narrow)).dim());
    frame.render_widget(table, area);
}

/// Of a row of five, what a narrow terminal has room for.
fn fewer<T>(row: Vec<T>, narrow: bool) -> Vec<T> {
    let kept = |position: &usize| !narrow || matches!(position, 0 | 1 | 4);
    row.into_iter().enumerate().filter(|(position, _)| kept(position)).map(|(_, cell)| cell).collect()
}

/// The numbers with their names, in the order in which they are read.
fn pairs(numbers: &Numbers) -> Vec<(&'static str, String)> {
    let waiting = match (numbers.waiting, numbers.waiting_limit) {
        (Some(waiting), Some(limit)) => format!("{} of {}", number(waiting), number(limit)),
        (waiting, _) => optional(waiting),
    };
    let subscribers = match (numbers.subscribers, numbers.behind) {
        (Some(subscribers), Some(behind)) if behind > 0.0 => {
            format!("{}, {} behind", number(subscribers), number(behind))
        }
        (subscribers, _) => optional(subscribers),
    };
    vec![
        ("errors/s", number(numbers.errors)),
        ("fsyncs/s", number(numbers.fsyncs)),
        ("fsync p99", seconds(numbers.fsync_p99)),
        ("group", optional(numbers.group)),
        ("waiting", waiting),
        ("apply lag", optional(numbers.apply_lag)),
        ("feed lag", optional(numbers.feed_lag)),
        ("feed readers", optional(numbers.readers)),
        ("subscribers", subscribers),
        ("deliveries/s", optional(numbers.deliveries)),
        ("memory", bytes(numbers.memory)),
        ("cpu", numbers.cpu.map_or_else(|| "–".to_owned(), |cpu| format!("{:.0} %", cpu * 100.0))),
        ("disk free", bytes(numbers.disk_free)),
    ]
}

fn state(numbers: &Numbers) -> String {
    let mut parts = vec![if numbers.ready { "ready" } else { "not ready" }.to_owned()];
    if numbers.log_failed {
        parts.push("the log failed".to_owned());
    }
    parts.push(if numbers.leads { "leads" } else { "doesn't lead" }.to_owned());
    if let Some(up) = numbers.up {
        parts.push(format!("up {}", humantime::format_duration(Duration::from_secs(up.as_secs()))));
    }
    parts.extend(numbers.version.as_ref().map(|version| format!("v{version}")));
    parts.join(", ")
}

/// The numbers of one moment in lines: a name, spaces, a value; then the methods.
pub(super) fn plain(endpoint: &str, numbers: &Numbers) -> String {
    let mut text = format!("{:<14}{endpoint}\n{:<14}{}\n", "server", "state", state(numbers));
    let rates = [("calls/s", number(numbers.calls)), ("writes/s", number(numbers.writes))];
    for (name, value) in rates.into_iter().chain(pairs(numbers)) {
        let _ = writeln!(text, "{name:<14}{value}");
    }
    let _ = writeln!(text, "\n{:<32}{:>9}{:>10}{:>9}{:>9}", "METHOD", "CALLS/S", "ERRORS/S", "P50", "P99");
    for method in &numbers.methods {
        let (calls, errors) = (number(method.calls), number(method.errors));
        let (p50, p99) = (seconds(method.p50), seconds(method.p99));
        let _ = writeln!(text, "{:<32}{calls:>9}{errors:>10}{p50:>9}{p99:>9}", method.name);
    }
    text
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// In at most six characters.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.1}G", value / 1e9),
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.1}k", value / 1e3),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 1.0 => format!("{value:.1} s"),
        Some(value) if value >= 0.01 => format!("{:.0} ms", value * 1e3),
        Some(value) if value >= 0.001 => format!("{:.1} ms", value * 1e3),
        Some(value) => format!("{:.0} µs", value * 1e6),
    }
}

fn bytes(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= (1u64 << 30) as f64 => format!("{:.1} GiB", value / (1u64 << 30) as f64),
        Some(value) => format!("{:.1} MiB", value / (1u64 << 20) as f64),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn numbers() -> Numbers {
        let method = |name: &str, calls| Method {
            name: name.to_owned(),
            calls,
            errors: 0.5,
            p50: Some(0.0021),
            p99: Some(0.04),
        };
        Numbers {
            version: Some("0.1.0".to_owned()),
            ready: true,
            leads: true,
            up: Some(Duration::from_secs(62)),
            methods: vec![method("CreateUser", 12_345.0), method("GetUser", 3.0)],
            calls: 12_348.0,
            errors: 1.0,
            writes: 12_345.0,
            fsyncs: 400.0,
            fsync_p99: Some(0.0007),
            group: Some(30.8),
            waiting: Some(7.0),
            waiting_limit: Some(4096.0),
            memory: Some(50.0 * 1048576.0),
            cpu: Some(1.25),
            ..Numbers::default()
        }
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let cell = |x, y| buffer[(x, y)].symbol().to_owned();
        (0..height).map(|y| (0..width).map(|x| cell(x, y)).collect::<String>() + "\n").collect()
    }

    fn shown() -> View {
        let mut view = View::new("127.0.0.1:7500".to_owned(), Duration::from_secs(1));
        view.show(numbers());
        view
    }

    #[test]
    fn a_terminal_of_80_by_24_shows_everything() {
        let screen = screen(&shown(), 80, 24);
        for text in [
            "127.0.0.1:7500  ready, leads, up 1m 2s, v0.1.0",
            "calls/s 12.3k",
            "writes/s 12.3k",
            "fsync p99    700 µs",
            "group        30.8",
            "waiting      7 of 4096",
            "feed lag     –",
            "memory       50.0 MiB",
            "cpu          125 %",
            "P50",
            "q quits",
        ] {
            assert!(screen.contains(text), "{text} is not on\n{screen}");
        }
        let row = screen.lines().find(|line| line.starts_with("CreateUser")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["CreateUser", "12.3k", "0.5", "2.1", "ms", "40", "ms"]);
    }

    #[test]
    fn a_narrow_terminal_shows_less_and_a_tiny_one_doesnt_panic() {
        let narrow = screen(&shown(), 40, 24);
        assert!(narrow.contains("fsync p99    700 µs"), "{narrow}");
        let heading = narrow.lines().find(|line| line.starts_with("METHOD")).unwrap();
        assert!(heading.contains("P99") && !heading.contains("P50"), "{narrow}");
        for (width, height) in [(1, 1), (3, 2), (10, 5), (80, 1), (1, 80), (200, 60)] {
            screen(&shown(), width, height);
        }
    }

    #[test]
    fn a_server_that_is_away_is_told_and_the_last_numbers_stay() {
        let mut view = shown();
        view.fail("connection refused".to_owned());
        let screen_ = screen(&view, 80, 24);
        assert!(screen_.contains("127.0.0.1:7500 can't be reached, trying again: connection refused"), "{screen_}");
        assert!(screen_.contains("CreateUser"), "{screen_}");
        view.show(numbers());
        assert!(!screen(&view, 80, 24).contains("reached"));
    }

    #[test]
    fn only_the_last_minute_is_kept() {
        let mut view = View::new("x".to_owned(), Duration::from_secs(2));
        for _ in 0..100 {
            view.show(numbers());
        }
        assert_eq!(view.calls.values.len(), 30);
    }
}
