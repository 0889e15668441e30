//! `threads watch`: prints events, acknowledges what it printed, and goes on from there the next
//! time.

use std::time::Duration;

use clap::Args;
use flotilla_client::{Client, News, Pages, SubscribeError, Subscription, Target};
use flotilla_proto::threads::v1::{Event, ListEventsRequest, ThreadReset};
use tokio::signal::unix::{SignalKind, signal};

use super::{connect, find, line::line, names::Names};
use crate::{
    cli::{Failure, advice, output::Output, pages, talk},
    config::device::DeviceFile,
    serve::ServeError,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Watch {
    /// The threads to watch, by id or name [default: all of yours, also later ones]
    threads: Vec<String>,
    /// Begin with what happens from now on [default: after what this device acknowledged]
    #[arg(long)]
    now: bool,
    /// Acknowledge what was printed, so that the next run goes on behind it [default]
    #[arg(long, overrides_with = "no_ack")]
    ack: bool,
    /// Acknowledge nothing, so that the next run begins where this one did
    #[arg(long, overrides_with = "ack")]
    no_ack: bool,
}

/// How long the last acknowledgements are waited for.
const LAST: Duration = Duration::from_secs(5);

impl Watch {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let device = target.device.clone().map_or_else(default_device, Ok)?;
        let client = connect(target).await?.on_device(&device)?;
        let mut subscription = self.subscribe(&client).await?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
        talk::remark(&format!("watching as device {device}; ctrl-C ends it"));

        let mut printer =
            Printer { client: client.clone(), names: Names::new(&client), output, acks: self.ack || !self.no_ack };
        let ended = tokio::select! {
            ended = printer.follow(&mut subscription) => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        // Also after a failure: what was printed was printed.
        let closed = tokio::select! {
            closed = subscription.close(LAST) => closed,
            _ = interrupt.recv() => return ended,
        };
        if let Err(error) = closed {
            talk::warning(&format!("{error}; those events come again the next time"));
        }
        ended?;
        talk::remark(match self.no_ack {
            true => "stopped; nothing was acknowledged, so the next run begins where this one did",
            false => "stopped; the same command goes on behind what was printed",
        });
        Ok(())
    }

    async fn subscribe(&self, client: &Client) -> Result<Subscription, Failure> {
        let mut threads = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            threads.push(find::id(client, thread).await?);
        }
        let subscription = match threads.is_empty() {
            true => Subscription::all(client),
            false => Subscription::of(client, threads),
        };
        Ok(if self.now { subscription.from_now() } else { subscription })
    }
}

/// What a subscription says, on its way to a person or a program.
struct Printer<'a> {
    client: Client,
    names: Names,
    output: &'a mut Output,
    acks: bool,
}

impl Printer<'_> {
    /// Until there is nothing to follow any more.
    async fn follow(&mut self, subscription: &mut Subscription) -> Result<(), Failure> {
        loop {
            match subscription.next().await {
                Ok(News::Event(event)) => {
                    self.print("event", &event).await?;
                    self.output.flush()?;
                    if self.acks {
                        subscription.ack(&event);
                    }
                }
                Ok(News::Reset(reset)) => {
                    self.read_anew(&reset).await?;
                    if let Some(cursor) = reset.cursor.filter(|_| self.acks) {
                        subscription.acknowledger().ack_to(&cursor);
                    }
                }
                Ok(News::Lost { reason, pause }) => {
                    let pause = pause.as_secs_f64();
                    talk::warning(&format!("the stream broke ({reason}); trying again in {pause:.1} s"));
                }
                Ok(News::Gone { thread_id }) => {
                    talk::warning(&format!("thread {thread_id}: you are no longer a member of it"));
                }
                Ok(News::Resumed) => talk::remark("resumed where it broke"),
                Ok(News::AckFailed(failure)) => talk::warning(&format!(
                    "what was printed could not be acknowledged, {}: {}",
                    if failure.will_retry { "which is tried again" } else { "so it may come again the next time" },
                    advice::told(&failure.error)
                )),
                Ok(News::Started(_) | News::Quiet) => {}
                Err(SubscribeError::NoThreadLeft) => {
                    talk::remark("you are no longer a member of what was watched");
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn print(&mut self, what: &str, event: &Event) -> Result<(), Failure> {
        let mut text = String::new();
        if self.output.is_for_a_person() {
            self.names.prepare(event).await;
            text = line(event, &self.names);
            self.names.learn(event);
        }
        self.output.item(what, event, &text)
    }

    /// Prints what there is up to where the stream goes on.
    async fn read_anew(&mut self, reset: &ThreadReset) -> Result<(), Failure> {
        let reason = reset.reason().wire_name();
        talk::warning(&format!(
            "{} ({reason}): what is kept of the thread is listed now, and then its events go on",
            reset.message
        ));
        self.output.item("reset", reset, &format!("reset  {reason}"))?;
        let Some(end) = &reset.cursor else { return Ok(()) };
        let request = ListEventsRequest { thread_id: end.thread_id.clone(), ..ListEventsRequest::default() };
        let mut pages = Pages::new(&self.client, request);
        while let Some(page) = pages::patiently(&mut pages).await? {
            let behind = page.items.iter().position(|event| event.sequence > end.sequence);
            for event in &page.items[..behind.unwrap_or(page.items.len())] {
                self.print("snapshot", event).await?;
            }
            self.output.flush()?;
            if behind.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// The device that this home stands for.
fn default_device() -> Result<String, Failure> {
    let Some(file) = DeviceFile::find() else {
        return Err(Failure::Argument {
            argument: "--device".to_owned(),
            reason: "there is no home to keep a device's name in, so give one".to_owned(),
        });
    };
    file.name().map_err(|source| Failure::Argument {
        argument: "--device".to_owned(),
        reason: format!("the name kept in {} can't be used ({source}), so give one", file.path().display()),
    })
}
