//! A page of metrics, read. Only what a server of ours writes has to be understood: of OpenMetrics,
//! series with labels, values and what may follow them; comments are passed over.

use std::collections::{BTreeMap, HashMap};

/// Every series of a page.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Page {
    series: HashMap<String, Vec<Series>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Series {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Page {
    /// Reads a page. A line that can't be read is passed over: one strange series must not hide the rest.
    pub(super) fn read(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, series)) = series(line) {
                page.series.entry(name.to_owned()).or_default().push(series);
            }
        }
        page
    }

    /// The sum of all series of a name; none if there are none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let found = self.series.get(name)?;
        Some(found.iter().map(|series| series.value).sum())
    }

    /// The value of a label of the first series of a name.
    pub(super) fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.series.get(name)?.first()?.label(label)
    }

    /// Sums by the value of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<&str, f64> {
        self.by_if(name, label, |_| true)
    }

    /// Sums by the value of a label, of the series whose `of` label isn't `but`.
    pub(super) fn by_except(&self, name: &str, label: &str, of: &str, but: &str) -> BTreeMap<&str, f64> {
        self.by_if(name, label, |series| series.label(of) != Some(but))
    }

    fn by_if(&self, name: &str, label: &str, wanted: impl Fn(&Series) -> bool) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for series in self.series.get(name).into_iter().flatten().filter(|series| wanted(series)) {
            if let Some(value) = series.label(label) {
                *sums.entry(value).or_default() += series.value;
            }
        }
        sums
    }

    /// A histogram's buckets: upper bounds with counts up to them, in order; of one value of a label, or
    /// of all series.
    pub(super) fn buckets(&self, name: &str, of: Option<(&str, &str)>) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let found = self.series.get(&format!("{name}_bucket")).into_iter().flatten();
        for series in found.filter(|series| of.is_none_or(|(label, value)| series.label(label) == Some(value))) {
            let Some(bound) = series.label("le").and_then(|text| text.parse::<f64>().ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += series.value,
                None => buckets.push((bound, series.value)),
            }
        }
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        buckets
    }
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// `name{label="value",…} number …`.
fn series(line: &str) -> Option<(&str, Series)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
    }
    // What may follow are a time and an exemplar.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, Series { labels, value }))
}

/// The text up to the closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_commas_and_braces_are_read() {
        let page = Page::read("a_total{x=\"1,}\",y=\"say \\\"no\\\"\\n\\\\\"} 3 1700000000 # {t=\"1\"} 2\nb 4.5e-3\n");
        assert_eq!(page.label("a_total", "x"), Some("1,}"));
        assert_eq!(page.label("a_total", "y"), Some("say \"no\"\n\\"));
        assert_eq!((page.sum("a_total"), page.sum("b"), page.sum("c")), (Some(3.0), Some(0.0045), None));
    }

    #[test]
    fn a_line_that_cant_be_read_hides_no_other() {
        let page = Page::read("# HELP a A\na{x=\"1} 3\na{x 3\n{\n\na{x=\"2\"} many\nb 1\n# EOF\n");
        assert_eq!((page.sum("a"), page.sum("b")), (None, Some(1.0)));
    }

    #[test]
    fn sums_and_buckets_are_by_label() {
        let page = Page::read(
            "h_bucket{m=\"x\",le=\"1.0\"} 1\nh_bucket{m=\"x\",le=\"+Inf\"} 3\nh_bucket{m=\"y\",le=\"1.0\"} 5\n\
             c{m=\"x\",k=\"OK\"} 2\nc{m=\"x\",k=\"No\"} 3\n",
        );
        assert_eq!(page.buckets("h", Some(("m", "x"))), [(1.0, 1.0), (f64::INFINITY, 3.0)]);
        assert_eq!(page.buckets("h", None), [(1.0, 6.0), (f64::INFINITY, 3.0)]);
        assert_eq!(page.by("c", "m").into_iter().collect::<Vec<_>>(), [("x", 5.0)]);
        assert_eq!(page.by_except("c", "m", "k", "OK").into_iter().collect::<Vec<_>>(), [("x", 3.0)]);
    }
}
