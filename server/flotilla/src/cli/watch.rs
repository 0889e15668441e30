//! What `users watch` and `records watch` share: printing changes, surviving servers, and keeping
//! the place for the next run.

use std::{collections::HashMap, fs, io, path::PathBuf};

use clap::Args;
use flotilla_client::{
    Client, Target,
    watch::{Follower, News, Watch},
};
use flotilla_proto::feed::v1::{Cursor, Reset};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, checkpoint,
    json::Named,
    output::Output,
    pages::{self, Page, Pager},
    talk,
};
use crate::serve::ServeError;

/// Where a watch begins, and where it keeps its place.
#[derive(Debug, Args)]
pub(super) struct WatchFlags {
    /// Begin after this place, as an earlier run told it [default: from now on]
    #[arg(long, value_name = "CURSOR", value_parser = parse_cursor, conflicts_with = "cursor_file")]
    from: Option<Cursor>,
    /// Keep the place in this file, and begin there when it exists
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
}

/// A resource whose changes can be watched.
pub(super) trait Watched {
    /// The stream.
    type Watch: Watch<Event: Named>;
    /// All there is, for when the stream has a gap.
    type Pages: Pager<Item: Named>;

    /// The stream to follow.
    fn watch(&self) -> Self::Watch;
    /// All there is.
    fn pages(&self, client: &Client) -> Self::Pages;
    /// What an event is about.
    fn resource(event: &Event<Self>) -> Option<&Resource<Self>>;
    /// What tells a resource from others.
    fn id(resource: &Resource<Self>) -> String;
    /// An event for a person.
    fn line(event: &Event<Self>) -> String;
    /// A resource for a person.
    fn summary(resource: &Resource<Self>) -> String;
}

type Event<W> = <<W as Watched>::Watch as Watch>::Event;
type Resource<W> = <<W as Watched>::Pages as Pager>::Item;

/// Prints changes until a signal.
pub(super) async fn run<W: Watched>(
    target: &Target,
    output: &mut Output,
    flags: WatchFlags,
    watched: W,
) -> Result<(), Failure> {
    let place = Place { file: flags.cursor_file };
    let from = flags.from.map_or_else(|| place.read(), |cursor| Ok(Some(cursor)))?;
    let client = Client::connect(target).await?;
    let mut follower = Follower::new(client.clone(), watched.watch(), from);
    let mut snapshot = Snapshot::default();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    loop {
        let news = tokio::select! {
            news = follower.next() => news?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        match news {
            News::Event(event) => {
                let revision = follower.cursor().map_or(0, |cursor| cursor.revision);
                let id = W::resource(&event).map(W::id).unwrap_or_default();
                if !snapshot.shows(&id, revision) {
                    output.item("event", &*event, &W::line(&event))?;
                }
            }
            News::Quiet => {}
            News::Lost { reason, pause } => {
                talk::warning(&format!("the stream broke ({reason}); trying again in {:.1} s", pause.as_secs_f64()));
            }
            News::Resumed => talk::remark("resumed where it broke"),
            News::Reset(reset) => {
                tell(&reset, output)?;
                snapshot = scan(&client, &watched, output).await?;
            }
        }
        // First the data, then the place: a crash in between repeats an event and loses none.
        output.flush()?;
        place.keep(follower.cursor())?;
    }
    if let Some(cursor) = follower.cursor() {
        talk::remark(&match &place.file {
            Some(file) => format!("stopped; the same command goes on from the place kept in {}", file.display()),
            None => format!("stopped; go on with --from {}", write_cursor(cursor)),
        });
    }
    Ok(())
}

fn tell(reset: &Reset, output: &mut Output) -> Result<(), Failure> {
    let reason = reset.reason().wire_name();
    talk::warning(&format!(
        "{} ({reason}): changes in between can't be told one by one, so everything is listed now, and then the \
         changes go on",
        reset.message
    ));
    output.item("reset", reset, &format!("reset  {reason}"))
}

/// Prints all there is.
async fn scan<W: Watched>(client: &Client, watched: &W, output: &mut Output) -> Result<Snapshot, Failure> {
    let mut snapshot = Snapshot::default();
    let mut pages = watched.pages(client);
    while let Some(Page { items, revision }) = pages::patiently(&mut pages).await? {
        for resource in items {
            output.item("snapshot", &resource, &format!("snapshot  {}", W::summary(&resource)))?;
            snapshot.revisions.insert(W::id(&resource), revision);
        }
        snapshot.newest = snapshot.newest.max(revision);
    }
    talk::remark(&format!("listed {}, going on with changes", snapshot.revisions.len()));
    Ok(snapshot)
}

/// What a scan has shown, and as of which revision, so that the changes that it contains already
/// aren't told again.
#[derive(Default)]
struct Snapshot {
    revisions: HashMap<String, u64>,
    newest: u64,
}

impl Snapshot {
    fn shows(&mut self, id: &str, revision: u64) -> bool {
        if revision > self.newest {
            self.revisions.clear();
        }
        self.revisions.get(id).is_some_and(|shown| revision <= *shown)
    }
}

/// Where the place is kept between runs.
struct Place {
    file: Option<PathBuf>,
}

impl Place {
    fn read(&self) -> Result<Option<Cursor>, Failure> {
        let Some(path) = &self.file else { return Ok(None) };
        let failed = |source| Failure::File { operation: "read", path: path.clone(), source };
        match fs::read_to_string(path) {
            Ok(text) => parse_cursor(text.trim()).map(Some).map_err(|reason| Failure::Argument {
                argument: path.display().to_string(),
                reason: format!("{reason}; remove the file to begin from now on"),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn keep(&self, cursor: Option<&Cursor>) -> Result<(), Failure> {
        let (Some(path), Some(cursor)) = (&self.file, cursor) else { return Ok(()) };
        checkpoint::replace(path, &format!("{}\n", write_cursor(cursor))).map_err(|source| Failure::File {
            operation: "write",
            path: path.clone(),
            source,
        })
    }
}

/// `HISTORY:REVISION`, and `.INDEX` within a transaction.
fn write_cursor(cursor: &Cursor) -> String {
    match cursor.index {
        0 => format!("{}:{}", cursor.history, cursor.revision),
        index => format!("{}:{}.{index}", cursor.history, cursor.revision),
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, String> {
    let wrong = || format!("{text:?} is not a place such as 01J9ZC5W1V8N3E6D4K2R7T0Q9B:1234");
    let (history, place) = text.split_once(':').ok_or_else(wrong)?;
    let (revision, index) = place.split_once('.').unwrap_or((place, "0"));
    Ok(Cursor {
        history: history.to_owned(),
        revision: revision.parse().map_err(|_| wrong())?,
        index: index.parse().map_err(|_| wrong())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        for text in ["01J:7", "01J:7.3"] {
            assert_eq!(write_cursor(&parse_cursor(text).unwrap()), text);
        }
        assert!(parse_cursor("7").is_err() && parse_cursor("01J:x").is_err());
    }

    #[test]
    fn changes_that_a_scan_has_shown_are_not_told_again() {
        let mut snapshot = Snapshot { revisions: HashMap::from([("ada".to_owned(), 7)]), newest: 9 };
        assert!(snapshot.shows("ada", 6) && snapshot.shows("ada", 7));
        assert!(!snapshot.shows("ada", 8) && !snapshot.shows("new", 6));
        assert!(!snapshot.shows("ada", 10) && !snapshot.shows("ada", 7), "past the scan nothing is held back");
    }
}
