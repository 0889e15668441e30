//! GetUser of random users, beside bare tonic with messages of the same sizes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::{Bench, Width};
use crate::interrupt;
use crate::results::{Key, Unit};
use crate::servers::flotilla::UserId;
use crate::servers::{Disk, Server, echo, flotilla};

/// The cell's name in the table.
pub(crate) const CELL: &str = "GetUser, uniform random";

const IN_FLIGHT: [usize; 2] = [64, 1024];
/// A ULID and its field's header.
const REQUEST_BYTES: usize = 28;
/// About what a user's message takes; used when there is none to ask.
const ANSWER_BYTES: usize = 160;
const LOAD_LIMIT: Duration = Duration::from_secs(600);

/// A server that holds the users, kept for all rounds.
pub(crate) struct Loaded {
    server: Server,
    users: Arc<Vec<UserId>>,
    answer_bytes: usize,
}

/// Starts a server and creates its users.
pub(crate) fn load(bench: &Bench) -> Result<Loaded> {
    let folder = bench.fresh_folder("reads")?;
    let server = flotilla::start(&bench.flotilla, &folder, Disk::OwnSpeed)?;
    bench.say(&format!("creating {} users, at the longest for {LOAD_LIMIT:?}", bench.rows));
    let (users, created) = flotilla::load_users(server.address, bench.rows, LOAD_LIMIT)?;
    bench.say(&format!("created them, {:.0}/s", created.rate()));
    let answer_bytes = flotilla::user_bytes(server.address, &users[0])?;
    Ok(Loaded { server, users: Arc::new(users), answer_bytes })
}

/// Flotilla and bare tonic, taking turns at being first.
pub(crate) fn round(bench: &mut Bench, round: usize, loaded: &Result<Loaded>) -> Result<()> {
    let answer_bytes = loaded.as_ref().map_or(ANSWER_BYTES, |loaded| loaded.answer_bytes);
    let folder = bench.fresh_folder("echo")?;
    let echo = echo::start(&folder, answer_bytes)?;
    for in_flight in IN_FLIGHT {
        for turn in 0..2 {
            let (server, measured) = if (round + turn).is_multiple_of(2) {
                let measured = match loaded {
                    Ok(loaded) => {
                        let work = flotilla::get_user(loaded.users.clone());
                        bench.load(&loaded.server, Width::shared(in_flight), work)
                    }
                    Err(error) => Err(anyhow!("{error:#}")),
                };
                ("flotilla", measured)
            } else {
                ("echo", bench.load(&echo, Width::shared(in_flight), echo::calls(REQUEST_BYTES)))
            };
            bench.record(Key::new(CELL, in_flight, server), Unit::PerSecond, round, measured);
            interrupt::check()?;
        }
    }
    echo.process.stop()?;
    Ok(())
}
