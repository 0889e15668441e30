//! `cluster status`.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::cluster::v1::{GetServersRequest, GetServersResponse, Role, Server, State};

use super::watch;
use crate::cli::{Failure, json::to_json, output::Output, talk};

/// The answering server tells what it knows, without a leader too. LAG is how long ago the leader had
/// what a server lacks.
#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// Go on: on a terminal a table that stays current, elsewhere a line for each change
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        if self.watch {
            return watch::run(client, output).await;
        }
        let cell = client.call(GetServersRequest {}).await?;
        output.document(&to_json(&cell), &cell.servers)?;
        talk::remark(&summary(&cell));
        for warning in warnings(&cell.servers) {
            talk::warning(&warning);
        }
        talk::remark("try: flotilla cluster status --watch");
        Ok(())
    }
}

/// Which cell this is.
pub(super) fn summary(cell: &GetServersResponse) -> String {
    let voters = cell.servers.iter().filter(|server| server.role() == Role::Voter).count();
    let learners = cell.servers.len() - voters;
    let learners = if learners == 0 { String::new() } else { format!(", {learners} without a vote") };
    format!("cell {}: {voters} vote{learners}; as server {} knows it", cell.cell, cell.answered_by)
}

/// What a person should look at, and what to try.
pub(super) fn warnings(servers: &[Server]) -> Vec<String> {
    let mut warnings = Vec::new();
    let voters = servers.iter().filter(|server| server.role() == Role::Voter);
    let absent = voters.clone().filter(|server| server.state() == State::Unreachable).count();
    let voters = voters.count();
    if absent > 0 && absent * 2 >= voters {
        warnings.push(format!(
            "{absent} of {voters} voters don't answer: without more than half of them nothing is written, nor read \
             except with flotilla-consistency: local. Start them again; if their data is lost for ever, read about a \
             lost majority in ARCHITECTURE.md first"
        ));
    } else if !servers.iter().any(|server| server.is_leader) {
        warnings.push(
            "no server leads: if one isn't elected within seconds, see that the servers reach each other".to_owned(),
        );
    }
    for server in servers {
        let id = server.id;
        match server.state() {
            State::Unreachable => warnings.push(format!(
                "server {id} at {} doesn't answer: start it again, or, if it is gone for ever, `flotilla cluster \
                 remove {id}` and add another",
                server.address
            )),
            State::LogFailed => warnings.push(format!(
                "server {id} can't write its log any more: look at its own log and disk, then restart it"
            )),
            _ => {}
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u64, state: State) -> Server {
        Server { id, role: Role::Voter.into(), state: state.into(), is_leader: id == 1, ..Server::default() }
    }

    #[test]
    fn a_cell_that_is_well_has_no_warning() {
        let three = [1, 2, 3].map(|id| server(id, State::Ready));
        assert_eq!(warnings(&three), [""; 0]);
        assert_eq!(warnings(&three[1..]).len(), 1, "nobody leads");
    }

    #[test]
    fn a_lost_majority_is_told_before_the_servers_that_are_away() {
        let three = [server(1, State::Ready), server(2, State::Unreachable), server(3, State::Unreachable)];
        let warnings = warnings(&three);
        assert!(warnings[0].starts_with("2 of 3 voters don't answer"), "{warnings:?}");
        assert!(warnings[1].contains("cluster remove 2"), "{warnings:?}");
        assert_eq!(warnings.len(), 3);
    }
}
