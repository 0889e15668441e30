//! Seen by strace: no answer to a write leaves before the fdatasync that covers its log record has returned.

#[cfg(target_os = "linux")]
#[path = "support/crash/server.rs"]
#[allow(dead_code, reason = "the crash tests share it, and each uses a part")]
mod server;
#[cfg(target_os = "linux")]
#[path = "support/strace.rs"]
mod strace;

#[cfg(not(target_os = "linux"))]
#[test]
#[ignore = "strace is Linux's"]
fn no_answer_leaves_before_the_sync_that_covers_its_write_has_returned() {}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::{
        path::{Path, PathBuf},
        time::{Duration, Instant},
    };

    use flotilla_proto::records::v1::{PutRecordRequest, records_service_client::RecordsServiceClient};

    use super::{
        server::Setup,
        strace::{self, Trace},
    };

    const WRITES: usize = 50;
    /// How long strace may take to end after the server.
    const STRACE_LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_answer_leaves_before_the_sync_that_covers_its_write_has_returned() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("strace");
        let mut setup = Setup::new(folder.path(), &folder.path().join("data"));
        setup.under = strace::command(&strace_program(), &output);
        let mut server = setup.start().await;
        let mut client = RecordsServiceClient::new(server.connect().await);
        for number in 0..WRITES {
            let (table, id) = ("order".into(), mark(number));
            let request = PutRecordRequest { table, request_id: format!("request-{id}"), id, ..Default::default() };
            client.put_record(request).await.expect("a record put");
        }
        drop(client);
        let status = server.stop().await;
        assert!(status.success(), "under strace the server ends with {status}:\n{}", server.log());

        let trace = Trace::read(&output, Instant::now() + STRACE_LIMIT).await;
        let answers = trace.answers(server.port());
        assert!(answers.len() >= WRITES, "strace saw {} answers", answers.len());
        for number in 0..WRITES {
            let mark = mark(number);
            let write = trace.written("/data/log/", mark.as_bytes());
            let write = write.unwrap_or_else(|| panic!("{mark} was not written to the log"));
            let synced = trace.synced(&write);
            let synced = synced.unwrap_or_else(|| panic!("{mark} was written to {}, but not synced", write.file));
            let answer = answers.iter().find(|answer| answer.holds(mark.as_bytes()));
            let answer = answer.unwrap_or_else(|| panic!("strace saw no answer for {mark}"));
            assert!(
                synced < answer.begun,
                "the answer for {mark} leaves at line {} of the trace; its write ends at line {}, its sync at line {synced}",
                answer.begun,
                write.ended
            );
        }
    }

    /// The name of a record, and what its bytes are known by.
    fn mark(number: usize) -> String {
        format!("mark-{number:06}")
    }

    fn strace_program() -> PathBuf {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/strace");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path).map(|folder| folder.join("strace"));
        let found = [own].into_iter().chain(installed).find(|program| program.is_file());
        found.expect("strace is neither in .tools/bin nor in PATH: infra/bin/tools strace")
    }
}
