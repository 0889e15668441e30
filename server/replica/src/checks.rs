//! What checks of the rows found on this server, for whoever asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use flotilla_store::StoreError;
use tokio::{sync::watch, time::Instant};

use crate::CheckReport;

/// Reports that are kept.
const KEPT: usize = 8;

/// What a check found, or why it found nothing.
pub(crate) type Report = Result<CheckReport, Arc<StoreError>>;

/// The last reports, by the ids of their checks.
#[derive(Default)]
pub(crate) struct Checks {
    reports: Mutex<VecDeque<(String, Report)>>,
    count: watch::Sender<u64>,
}

impl Checks {
    /// Keeps a report.
    pub(crate) fn report(&self, id: String, report: Result<CheckReport, StoreError>) {
        let mut reports = self.reports();
        reports.push_back((id, report.map_err(Arc::new)));
        while reports.len() > KEPT {
            reports.pop_front();
        }
        drop(reports);
        self.count.send_modify(|count| *count += 1);
    }

    /// The report of a check, when it is there; none if it isn't by the deadline.
    pub(crate) async fn wait(&self, id: &str, deadline: Instant) -> Option<Report> {
        let mut count = self.count.subscribe();
        loop {
            count.borrow_and_update();
            let found = self.reports().iter().find(|(known, _)| known == id).map(|(_, report)| report.clone());
            if found.is_some() {
                return found;
            }
            tokio::time::timeout_at(deadline, count.changed()).await.ok()?.ok()?;
        }
    }

    fn reports(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Report)>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
