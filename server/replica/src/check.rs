//! Hashing all rows of every server at one point of the log, and comparing.

use std::time::Duration;

use flotilla_proto::{
    peer::v1 as peer,
    storage::v1::{self as storage, command},
};
use futures::future::join_all;
use tokio::time::Instant;

use crate::{
    CheckError, Committed, ProposeError, Replica,
    forward::Forwarding,
    peer::{Answer, Call},
    raft::{Server, ServerId},
};

/// What a check found on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The revision at which the spaces were hashed.
    pub revision: u64,
    /// The index of the log entry that asked.
    pub log_index: u64,
    /// One for each space that has rows, or should have.
    pub spaces: Vec<SpaceCheck>,
}

/// One space's rows as they should be and as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceCheck {
    /// The space's number.
    pub space: u32,
    /// How many rows were found.
    pub rows: u64,
    /// The hash that applying the log led to.
    pub expected: u128,
    /// The hash of the rows found.
    pub actual: u128,
}

/// What a check found on one server of the cell.
#[derive(Debug, Clone)]
pub struct ServerCheck {
    /// The server's number.
    pub server: u64,
    /// What it found, or why it found nothing.
    pub report: Result<CheckReport, String>,
}

impl Replica {
    /// Hashes every space at one point of the log, and says what this server found.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub async fn check(&self, deadline: Instant) -> Result<CheckReport, CheckError> {
        Ok(self.check_cell(deadline).await?.0)
    }

    /// The same on every server of the cell: this one's report, and the others'.
    ///
    /// # Errors
    /// See [`CheckError`]; that another server doesn't answer is none.
    pub async fn check_cell(&self, deadline: Instant) -> Result<(CheckReport, Vec<ServerCheck>), CheckError> {
        self.check_running()?;
        let id = ulid::Ulid::new().to_string();
        self.commit_encoded(|| Forwarding::Check(id.clone()), false, deadline, None).await?;
        let inner = self.inner();
        let membership = inner.members.membership();
        let others = membership.nodes().filter(|(other, _)| **other != inner.cell.id);
        let others = others.map(|(other, server)| self.ask_for_report(*other, server.clone(), &id, deadline));
        let (own, others) = tokio::join!(inner.derived.checks.wait(&id, deadline), join_all(others));
        match own {
            Some(Ok(report)) => Ok((report, others)),
            Some(Err(error)) => Err(CheckError::Store(error)),
            None => Err(ProposeError::DeadlineExpired { submitted: true }.into()),
        }
    }

    /// Puts a check into this server's log, if it leads.
    pub(crate) async fn submit_check(&self, id: String) -> Result<Committed, ProposeError> {
        self.check_running()?;
        let inner = self.inner();
        if !inner.leadership.leads() {
            return Err(ProposeError::NoLeader);
        }
        let command = inner.batcher.encode(command::Kind::Check(storage::Check { id }));
        let submitted = inner.raft.client_write_ff(command, None).await;
        submitted.map_err(|_| self.why_stopped())?;
        // Whoever waits for it waits for the report.
        Ok(Committed { revision: 0, time: 0, results: Vec::new(), answer: bytes::Bytes::new(), replayed: false })
    }

    async fn ask_for_report(&self, id: ServerId, server: Server, check: &str, deadline: Instant) -> ServerCheck {
        let cell = &self.inner().cell;
        // The answer must travel, too.
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.saturating_sub(Duration::from_millis(100));
        let timeout_micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        let call = Call::GetCheckReport(peer::GetCheckReportRequest { id: check.to_owned(), timeout_micros });
        let addresses = cell.addresses(id.server, &server);
        let answer = cell.network.call(&addresses, cell.introduction(Some(id)), call, left).await;
        let report = match answer {
            Ok(Answer::GetCheckReport(response)) => CheckReport::from_peer(response),
            Ok(_) => Err("it gave another answer than a report".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        ServerCheck { server: id.server, report }
    }
}

impl CheckReport {
    pub(crate) fn to_peer(&self) -> peer::GetCheckReportResponse {
        let spaces = self.spaces.iter().map(|space| peer::SpaceHashes {
            space: space.space,
            rows: space.rows,
            expected: space.expected.to_be_bytes().to_vec().into(),
            actual: space.actual.to_be_bytes().to_vec().into(),
        });
        peer::GetCheckReportResponse {
            failure: String::new(),
            revision: self.revision,
            log_index: self.log_index,
            spaces: spaces.collect(),
        }
    }

    fn from_peer(response: peer::GetCheckReportResponse) -> Result<Self, String> {
        if !response.failure.is_empty() {
            return Err(response.failure);
        }
        let hash = |bytes: &[u8]| {
            let bytes: [u8; 16] = bytes.try_into().map_err(|_| "a hash is not 16 bytes long".to_owned())?;
            Ok::<_, String>(u128::from_be_bytes(bytes))
        };
        let spaces = response.spaces.iter().map(|space| {
            let (expected, actual) = (hash(&space.expected)?, hash(&space.actual)?);
            Ok(SpaceCheck { space: space.space, rows: space.rows, expected, actual })
        });
        let spaces = spaces.collect::<Result<_, String>>()?;
        Ok(Self { revision: response.revision, log_index: response.log_index, spaces })
    }
}
