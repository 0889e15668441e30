//! `flotilla records …`.

use std::{collections::VecDeque, fs, io};

use clap::{Args, Subcommand};
use flotilla_proto::records::v1::{
    DeleteRecordRequest, GetRecordRequest, ListRecordsRequest, ListTablesRequest, PutRecordRequest, Record,
    RecordEvent, Table, record_event::Kind, records_service_client::RecordsServiceClient,
};
use prost_types::Struct;
use tonic::transport::Channel;

use super::{
    Failure,
    import::Import,
    output::Output,
    pages::{self, Page, Pager},
    row::{document, time},
    talk,
    watch::{self, WatchFlags, Watched},
};
use crate::client::{Client, MAX_MESSAGE, Target, follow, json, request_id};

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
    /// Repeat an earlier call's id so that it counts once [default: a new one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
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
    /// Repeat an earlier call's id so that it counts once [default: a new one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Records {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Put(put) => put.run(target, output).await,
            Self::Get { table, id } => {
                output.one(&get(&Client::connect(target).await?, GetRecordRequest { table, id }).await?)
            }
            Self::List(list) => {
                let pages = RecordPages::of(list.table, list.prefix.unwrap_or_default());
                pages::print(&Client::connect(target).await?, pages, output.list("records"), list.limit).await
            }
            Self::Delete(delete) => delete.call(&Client::connect(target).await?).await,
            Self::Tables => {
                let pages = TablePages::default();
                pages::print(&Client::connect(target).await?, pages, output.list("tables"), None).await
            }
            Self::Import(import) => import.run(target).await,
            Self::Watch { tables, flags } => watch::run(target, output, flags, RecordChanges { tables }).await,
        }
    }
}

impl Put {
    async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let request = PutRecordRequest {
            document: Some(read_document(&self.document)?),
            table: self.table,
            id: self.id,
            etag: self.etag.unwrap_or_default(),
            create_only: self.create_only,
            request_id: self.request_id.unwrap_or_else(request_id),
        };
        let client = Client::connect(target).await?;
        let put =
            client.unary(request, |channel, request| async move { records(channel).put_record(request).await }).await?;
        output.one(&put.into_inner())
    }
}

fn read_document(argument: &str) -> Result<Struct, Failure> {
    let file = |path: &str| fs::read_to_string(path);
    let text = match argument.strip_prefix('@') {
        Some(path) => file(path).map_err(|source| Failure::File { operation: "read", path: path.into(), source })?,
        None if argument == "-" => io::read_to_string(io::stdin()).map_err(|source| Failure::File {
            operation: "read",
            path: "stdin".into(),
            source,
        })?,
        None => argument.to_owned(),
    };
    json::from_json(&text).map_err(|error| Failure::Argument {
        argument: "the document".to_owned(),
        reason: format!("{error}; it must be a JSON object, such as '{{\"length_m\": 4.2}}'"),
    })
}

async fn get(client: &Client, request: GetRecordRequest) -> Result<Record, Failure> {
    let record =
        client.unary(request, |channel, request| async move { records(channel).get_record(request).await }).await?;
    Ok(record.into_inner())
}

impl Delete {
    async fn call(self, client: &Client) -> Result<(), Failure> {
        let name = format!("{}/{}", self.table, self.id);
        let request = DeleteRecordRequest {
            table: self.table,
            id: self.id,
            etag: self.etag.unwrap_or_default(),
            allow_missing: self.allow_missing,
            request_id: self.request_id.unwrap_or_else(request_id),
        };
        client.unary(request, |channel, request| async move { records(channel).delete_record(request).await }).await?;
        talk::remark(&format!("deleted {name}"));
        Ok(())
    }
}

fn records(channel: Channel) -> RecordsServiceClient<Channel> {
    RecordsServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

/// The pages of one table.
struct RecordPages {
    request: ListRecordsRequest,
    ended: bool,
}

impl RecordPages {
    fn of(table: String, id_prefix: String) -> Self {
        Self { request: ListRecordsRequest { table, id_prefix, ..ListRecordsRequest::default() }, ended: false }
    }
}

impl Pager for RecordPages {
    type Item = Record;

    async fn next(&mut self, client: &Client, wanted: usize) -> Result<Option<Page<Record>>, Failure> {
        if self.ended {
            return Ok(None);
        }
        self.request.page_size = pages::size(wanted);
        let response = client
            .unary(self.request.clone(), |channel, request| async move { records(channel).list_records(request).await })
            .await?;
        let revision = pages::revision(response.metadata());
        let page = response.into_inner();
        self.ended = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(Page { items: page.records, revision }))
    }
}

/// The pages of the list of tables.
#[derive(Default)]
struct TablePages {
    request: ListTablesRequest,
    ended: bool,
}

impl Pager for TablePages {
    type Item = Table;

    async fn next(&mut self, client: &Client, wanted: usize) -> Result<Option<Page<Table>>, Failure> {
        if self.ended {
            return Ok(None);
        }
        self.request.page_size = pages::size(wanted);
        let response = client
            .unary(self.request.clone(), |channel, request| async move { records(channel).list_tables(request).await })
            .await?;
        let revision = pages::revision(response.metadata());
        let page = response.into_inner();
        self.ended = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(Page { items: page.tables, revision }))
    }
}

/// What `records watch` needs to know.
struct RecordChanges {
    /// The tables to watch; none: all.
    tables: Vec<String>,
}

impl Watched for RecordChanges {
    type Watch = follow::Records;
    type Pages = EverythingPages;

    fn watch(&self) -> follow::Records {
        follow::Records { tables: self.tables.clone() }
    }

    fn pages(&self) -> EverythingPages {
        EverythingPages {
            unknown: self.tables.is_empty().then(TablePages::default),
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
    /// The tables that aren't known yet, if all are wanted.
    unknown: Option<TablePages>,
    tables: VecDeque<String>,
    current: Option<RecordPages>,
}

impl Pager for EverythingPages {
    type Item = Record;

    async fn next(&mut self, client: &Client, wanted: usize) -> Result<Option<Page<Record>>, Failure> {
        loop {
            if let Some(pages) = &mut self.current {
                match pages.next(client, wanted).await? {
                    Some(page) => return Ok(Some(page)),
                    None => self.current = None,
                }
            } else if let Some(table) = self.tables.pop_front() {
                self.current = Some(RecordPages::of(table, String::new()));
            } else if let Some(unknown) = &mut self.unknown {
                match unknown.next(client, usize::MAX).await? {
                    Some(page) => self.tables.extend(page.items.into_iter().map(|table| table.name)),
                    None => self.unknown = None,
                }
            } else {
                return Ok(None);
            }
        }
    }
}
