//! `cluster status --watch`: on a terminal a table that stays current, elsewhere a line for each thing
//! that happens.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::Duration,
};

use flotilla_client::{
    Client,
    watch::{Follower, Item, News, Opening, Watch},
};
use flotilla_proto::{
    cluster::v1::{
        GetServersRequest, GetServersResponse, ServerEvent, WatchServersRequest, WatchServersResponse,
        cluster_service_client::ClusterServiceClient, server_event::Kind, watch_servers_response,
    },
    feed::v1::Cursor,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::status;
use crate::{
    cli::{
        Failure,
        output::{Format, Output},
        row::{self, word},
        talk,
    },
    serve::ServeError,
};

/// How often the table is drawn anew; progress alone makes no event.
const REDRAW: Duration = Duration::from_secs(1);
/// What happened lately, as many lines of it as stay below the table.
const LATELY: usize = 8;
/// Home, and nothing below.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// Follows the cell until a signal.
pub(super) async fn run(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let on_a_screen = output.is_for_a_person() && io::stdout().is_terminal();
    tokio::select! {
        ended = draw(client), if on_a_screen => ended?,
        ended = print(client, output), if !on_a_screen => ended?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    talk::remark("stopped");
    Ok(())
}

/// A line for each event.
async fn print(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let mut follower = Follower::new(client.clone(), Servers, None);
    loop {
        match follower.next().await? {
            News::Event(event) => {
                output.item("event", &*event, &line(&event))?;
                output.flush()?;
            }
            News::Lost { reason, pause } => {
                talk::warning(&format!("the stream broke ({reason}); trying again in {:.1} s", pause.as_secs_f64()));
            }
            News::Resumed => talk::remark("the stream is open again: the servers as they are now"),
            News::Quiet | News::Reset(_) => {}
        }
    }
}

/// A table that stays current, and what happened lately.
async fn draw(client: &Client) -> Result<(), Failure> {
    let mut follower = Follower::new(client.clone(), Servers, None);
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cell = client.call(GetServersRequest {}).await?;
    let mut lately: VecDeque<String> = VecDeque::new();
    let mut problem = None;
    loop {
        show(&cell, &lately, problem.as_deref())?;
        tokio::select! {
            news = follower.next() => match news? {
                News::Event(event) if event.kind() != Kind::Present => {
                    lately.truncate(LATELY - 1);
                    lately.push_front(line(&event));
                    continue;
                }
                News::Lost { reason, .. } => problem = Some(format!("{} is away, trying again: {reason}", client.endpoint())),
                _ => problem = None,
            },
            _ = ticks.tick() => {}
        }
        if problem.is_none() {
            // One try: the next tick is the second.
            match tokio::time::timeout(REDRAW, client.call(GetServersRequest {})).await {
                Ok(Ok(now)) => cell = now,
                Ok(Err(error)) => problem = Some(error.to_string()),
                Err(_) => problem = Some(format!("{} doesn't answer within {REDRAW:?}", client.endpoint())),
            }
        }
    }
}

fn show(cell: &GetServersResponse, lately: &VecDeque<String>, problem: Option<&str>) -> Result<(), Failure> {
    // A new one each time, because a table that goes on has its heading once.
    let mut screen = Output::new(Format::Table);
    screen.raw(CLEAR)?;
    screen.document(&serde_json::Value::Null, &cell.servers)?;
    let mut below = format!("\n{}; ctrl-C ends it\n", status::summary(cell));
    for told in problem.map(str::to_owned).into_iter().chain(status::warnings(&cell.servers)) {
        below.push_str(&format!("warning: {told}\n"));
    }
    for line in lately {
        below.push_str(&format!("{line}\n"));
    }
    screen.raw(below.as_bytes())
}

/// An event for a person.
fn line(event: &ServerEvent) -> String {
    let server = event.server.clone().unwrap_or_default();
    let kind = word(event.kind().as_str_name(), "KIND_");
    let leads = if server.is_leader { ", leads" } else { "" };
    format!(
        "{}  {kind}  server {} at {}: {}, {}{leads}, term {}",
        row::time(event.time.as_ref()),
        server.id,
        server.address,
        word(server.role().as_str_name(), "ROLE_"),
        word(server.state().as_str_name(), "STATE_"),
        server.term,
    )
}

/// WatchServers, which begins anew each time it is opened.
struct Servers;

impl Watch for Servers {
    type Event = ServerEvent;
    type Response = WatchServersResponse;

    /// Every server has it.
    const SERVICE: &'static str = "";

    fn open(&self, client: Client, _: Option<Cursor>) -> Opening<WatchServersResponse> {
        let mut cluster = ClusterServiceClient::new(client.channel());
        let request = client.request(WatchServersRequest {});
        Box::pin(async move { Ok(cluster.watch_servers(request).await?.into_inner()) })
    }

    fn item(response: WatchServersResponse) -> Option<Item<ServerEvent>> {
        Some(match response.item? {
            watch_servers_response::Item::Event(event) => Item::Event(Box::new(event)),
            watch_servers_response::Item::Heartbeat(heartbeat) => Item::Heartbeat(heartbeat.cursor),
        })
    }

    fn cursor(_: &ServerEvent) -> Option<&Cursor> {
        None
    }
}
