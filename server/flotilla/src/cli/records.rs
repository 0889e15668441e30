//! `flotilla records …`.

use std::collections::VecDeque;

use clap::{Args, Subcommand};
use flotilla_client::{Client, Pages, Target, watch as streams};
use flotilla_proto::records::v1::{
    DeleteRecordRequest, GetRecordRequest, ListRecordsRequest, ListTablesRequest, PutRecordRequest, Record,
    RecordEvent, record_event::Kind,
};

use super::{
    Failure,
    document::read_document,
    import::Import,
    intent::Intent,
    output::Output,
    pages::{self, Page, Pager},
    row::{document, time},
    talk,
    watch::{self, WatchFlags, Watched},
};

#[derive(Debug, Subcommand)]
pub(super) enum Records {
    /// Write a record, new or in place of the former document as a whole, and print it
    Put(Put),
    /// Print one record
    Get {
        /// The table
        table: String,
        /// The record's id
        id: String,
    },
    /// Print a table's records
    List(List),
    /// Delete a record
    Delete(Delete),
    /// Print the tables that hold a record
    Tables,
    /// Write many records from lines of JSON, in atomic batches; can be stopped and gone on with
    Import(Import),
    /// Print changes as they happen; reconnects and resumes by itself
    Watch {
        /// The tables to watch [default: all, also later ones]
        tables: Vec<String>,
        #[command(flatten)]
        flags: WatchFlags,
    },
}

#[derive(Debug, Args)]
pub(super) struct Put {
    /// The table; it needs no creation
    table: String,
    /// The record's id
    id: String,
    /// The document, a JSON object; @FILE reads a file, - reads stdin
    document: String,
    /// Only if the record doesn't exist
    #[arg(long, conflicts_with = "etag")]
    create_only: bool,
    /// Only over this version
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// The table
    table: String,
    /// Only records whose id begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The table
    table: String,
    /// The record's id
    id: String,
    /// Delete only this version
    #[arg(long)]
    etag: Option<String>,
    /// A record that doesn't exist is a success
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    intent: Intent,
}

impl Records {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Put(put) => put.run(target, output).await,
            Self::Get { table, id } => {
                output.one(&Client::connect(target).await?.call(GetRecordRequest { table, id }).await?)
            }
            Self::List(list) => {
                let pages = records_of(&Client::connect(target).await?, list.table, list.prefix.unwrap_or_default());
                pages::print(pages, output.list("records"), list.limit).await
            }
            Self::Delete(delete) => delete.call(&Client::connect(target).await?).await,
            Self::Tables => {
                let pages = Pages::new(&Client::connect(target).await?, ListTablesRequest::default());
                pages::print(pages, output.list("tables"), None).await
            }
            Self::Import(import) => import.run(target).await,
            Self::Watch { tables, flags } => watch::run(target, output, flags, RecordChanges { tables }).await,
        }
    }
}

impl Put {
    async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let request = PutRecordRequest {
            document: Some(read_document("the document", &self.document)?),
            table: self.table,
            id: self.id,
            etag: self.etag.unwrap_or_default(),
            create_only: self.create_only,
            request_id: self.intent.id(),
        };
        output.one(&Client::connect(target).await?.call(request).await?)
    }
}

impl Delete {
    async fn call(self, client: &Client) -> Result<(), Failure> {
        let name = format!("{}/{}", self.table, self.id);
        let request = DeleteRecordRequest {
            table: self.table,
            id: self.id,
            etag: self.etag.unwrap_or_default(),
            allow_missing: self.allow_missing,
            request_id: self.intent.id(),
        };
        client.call(request).await?;
        talk::remark(&format!("deleted {name}"));
        Ok(())
    }
}

fn records_of(client: &Client, table: String, id_prefix: String) -> Pages<ListRecordsRequest> {
    Pages::new(client, ListRecordsRequest { table, id_prefix, ..ListRecordsRequest::default() })
}

/// What `records watch` needs to know.
struct RecordChanges {
    /// The tables to watch; none: all.
    tables: Vec<String>,
}

impl Watched for RecordChanges {
    type Watch = streams::Records;
    type Pages = EverythingPages;

    fn watch(&self) -> streams::Records {
        streams::Records { tables: self.tables.clone() }
    }

    fn pages(&self, client: &Client) -> EverythingPages {
        let all = self.tables.is_empty();
        EverythingPages {
            client: client.clone(),
            unknown: all.then(|| Pages::new(client, ListTablesRequest::default())),
            tables: self.tables.iter().cloned().collect(),
            current: None,
        }
    }

    fn resource(event: &RecordEvent) -> Option<&Record> {
        event.record.as_ref()
    }

    fn id(record: &Record) -> String {
        // No table's name has a slash.
        format!("{}/{}", record.table, record.id)
    }

    fn line(event: &RecordEvent) -> String {
        let kind = match event.kind() {
            Kind::Created => "created",
            Kind::Updated => "updated",
            Kind::Deleted => "deleted",
            Kind::Unspecified => "changed",
        };
        let record = event.record.clone().unwrap_or_default();
        format!("{}  {kind}  {}", time(event.time.as_ref()), Self::summary(&record))
    }

    fn summary(record: &Record) -> String {
        format!("{}  {}", Self::id(record), document(record))
    }
}

/// The records of many tables, table by table.
struct EverythingPages {
    client: Client,
    /// The tables that aren't known yet, if all are wanted.
    unknown: Option<Pages<ListTablesRequest>>,
    tables: VecDeque<String>,
    current: Option<Pages<ListRecordsRequest>>,
}

impl Pager for EverythingPages {
    type Item = Record;

    async fn next(&mut self, wanted: usize) -> Result<Option<Page<Record>>, Failure> {
        loop {
            if let Some(pages) = &mut self.current {
                match Pager::next(pages, wanted).await? {
                    Some(page) => return Ok(Some(page)),
                    None => self.current = None,
                }
            } else if let Some(table) = self.tables.pop_front() {
                self.current = Some(records_of(&self.client, table, String::new()));
            } else if let Some(unknown) = &mut self.unknown {
                match unknown.next(usize::MAX).await? {
                    Some(page) => self.tables.extend(page.items.into_iter().map(|table| table.name)),
                    None => self.unknown = None,
                }
            } else {
                return Ok(None);
            }
        }
    }
}
