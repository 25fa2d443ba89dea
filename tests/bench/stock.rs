//! The floor: a stock tonic and prost server that always allows, and lets every exchange go on. One thread and the same allocator as ours.

use envoy_types::ext_authz::v3::CheckResponseExt as _;
use envoy_types::ext_authz::v3::pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, HeadersResponse, ProcessingRequest, ProcessingResponse, TrailersResponse,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

struct AlwaysAllow;

#[tonic::async_trait]
impl Authorization for AlwaysAllow {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse::with_status(Status::ok(""))))
    }
}

struct GoOn;

#[tonic::async_trait]
impl ExternalProcessor for GoOn {
    type ProcessStream = std::pin::Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let reply = match message?.request {
                Some(Part::RequestHeaders(_)) => Some(Reply::RequestHeaders(HeadersResponse::default())),
                Some(Part::ResponseHeaders(_)) => Some(Reply::ResponseHeaders(HeadersResponse::default())),
                Some(Part::RequestBody(_)) => Some(Reply::RequestBody(BodyResponse::default())),
                Some(Part::ResponseBody(_)) => Some(Reply::ResponseBody(BodyResponse::default())),
                Some(Part::RequestTrailers(_)) => Some(Reply::RequestTrailers(TrailersResponse::default())),
                Some(Part::ResponseTrailers(_)) => Some(Reply::ResponseTrailers(TrailersResponse::default())),
                None => None,
            };
            Ok(ProcessingResponse { response: reply, ..ProcessingResponse::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Serves until killed.
pub fn serve(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(AuthorizationServer::new(AlwaysAllow))
            .add_service(ExternalProcessorServer::new(GoOn))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
            .await?;
        Ok(())
    })
}
