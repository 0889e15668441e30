//! The gRPC service: takes each call apart, hands it on, and puts the answer
//! together. Nothing is decided here.

use flotilla_kit::{Call, Context};
use flotilla_proto::records::v1::{
    BatchWriteRequest, BatchWriteResponse, DeleteRecordRequest, GetRecordRequest, ListRecordsRequest,
    ListRecordsResponse, ListTablesRequest, ListTablesResponse, PutRecordRequest, Record, WatchRecordsRequest,
    WatchRecordsResponse, records_service_server::RecordsService,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use crate::{batch, delete, get, list, put, tables, watch};

/// The service over its context.
pub(crate) struct Records {
    context: Context,
}

impl Records {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl RecordsService for Records {
    async fn put_record(&self, request: Request<PutRecordRequest>) -> Result<Response<Record>, Status> {
        let (call, request) = Call::of("records.PutRecord", request)?;
        let (revision, record) = put::put(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, record))
    }

    async fn get_record(&self, request: Request<GetRecordRequest>) -> Result<Response<Record>, Status> {
        let (call, request) = Call::of("records.GetRecord", request)?;
        let (revision, record) = get::get(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, record))
    }

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let (call, request) = Call::of("records.ListRecords", request)?;
        let (revision, page) = list::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    async fn delete_record(&self, request: Request<DeleteRecordRequest>) -> Result<Response<()>, Status> {
        let (call, request) = Call::of("records.DeleteRecord", request)?;
        let revision = delete::delete(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, ()))
    }

    async fn list_tables(&self, request: Request<ListTablesRequest>) -> Result<Response<ListTablesResponse>, Status> {
        let (call, request) = Call::of("records.ListTables", request)?;
        let (revision, page) = tables::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    async fn batch_write(&self, request: Request<BatchWriteRequest>) -> Result<Response<BatchWriteResponse>, Status> {
        let (call, request) = Call::of("records.BatchWrite", request)?;
        let written = batch::write(&self.context, &call, request).await?;
        Ok(self.context.reply(written.revision, written))
    }

    type WatchRecordsStream = BoxStream<'static, Result<WatchRecordsResponse, Status>>;

    async fn watch_records(
        &self,
        request: Request<WatchRecordsRequest>,
    ) -> Result<Response<Self::WatchRecordsStream>, Status> {
        let (call, request) = Call::of("records.WatchRecords", request)?;
        let stream = watch::watch(&self.context, &call, request).await?;
        Ok(Response::new(stream))
    }
}
