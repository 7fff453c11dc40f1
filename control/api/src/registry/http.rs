//! The HTTP side of the registry.

use super::{
    MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, Registry,
    answers::{
        CONTENT_DIGEST, Query, Wanted, blob_path, byte_range, created, empty, finished, invalid, json_answer, linked,
        manifest_unknown, page, progress,
    },
    error::{Code, Refusal},
    manifests::Manifest,
    path::{self, Digest, Reference, Target},
    uploads::too_large,
};
use crate::{
    auth::Authenticator,
    identity::{GROUP_MASTERS, Identity},
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
    routing::any,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use std::{io::SeekFrom, sync::Arc};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const OCTETS: &str = "application/octet-stream";

struct Service {
    registry: Arc<Registry>,
    authenticator: Arc<Authenticator>,
}

type Answer = Result<Response, Refusal>;

/// Everything under `/v2/`.
pub fn routes(registry: Arc<Registry>, authenticator: Arc<Authenticator>) -> Router {
    let service = Arc::new(Service { registry, authenticator });
    Router::new().route("/v2", any(root)).route("/v2/", any(root)).route("/v2/{*path}", any(serve)).with_state(service)
}

async fn root(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = service.authenticator.authenticate(&parts).map_err(Refusal::from);
    answer.map_or_else(Refusal::into_response, |_| json_answer(&json!({})).into_response())
}

async fn serve(State(service): State<Arc<Service>>, Path(path): Path<String>, request: Request) -> Response {
    service.answer(&path, request).await.unwrap_or_else(Refusal::into_response)
}

impl Service {
    async fn answer(&self, path: &str, request: Request) -> Answer {
        let (parts, body) = request.into_parts();
        let identity = self.authenticator.authenticate(&parts)?;
        permit(&identity, &parts.method)?;
        let target = path::parse(path)?;
        let query = Query::of(&parts.uri);
        let (method, headers) = (&parts.method, &parts.headers);
        match (method.as_str(), target) {
            ("GET", Target::Catalog) => self.catalog(&query).await,
            ("GET", Target::Tags(repository)) => self.tags(&repository, &query).await,
            ("GET", Target::Referrers(repository, digest)) => self.referrers(&repository, &digest, &query).await,
            ("GET" | "HEAD", Target::Manifest(repository, reference)) => {
                self.manifest(&repository, &reference, method).await
            }
            ("PUT", Target::Manifest(repository, reference)) => {
                self.put_manifest(&repository, &reference, headers, body).await
            }
            ("DELETE", Target::Manifest(repository, reference)) => {
                let deleted = self.registry.manifests.delete(&repository, &reference).await?;
                if deleted { Ok(empty(StatusCode::ACCEPTED)) } else { Err(manifest_unknown()) }
            }
            ("GET" | "HEAD", Target::Blob(_, digest)) => self.blob(&digest, method, headers).await,
            ("POST", Target::Uploads(repository)) => self.begin(&repository, &query, headers, body).await,
            ("GET", Target::Upload(repository, id)) => {
                let size = self.registry.uploads.find(&repository, &id)?.lock().await.size;
                Ok(progress(StatusCode::NO_CONTENT, &repository, &id, size))
            }
            ("PATCH", Target::Upload(repository, id)) => self.append(&repository, &id, headers, body).await,
            ("PUT", Target::Upload(repository, id)) => {
                let digest = query.digest()?;
                self.append(&repository, &id, headers, body).await?;
                self.finish(&repository, &id, &digest).await
            }
            ("DELETE", Target::Upload(repository, id)) => {
                self.registry.uploads.cancel(&repository, &id)?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Refusal::new(Code::Unsupported, "the registry does not do that")),
        }
    }

    async fn begin(&self, repository: &str, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let uploads = &self.registry.uploads;
        if let Some(mount) = query.get("mount") {
            let digest = Digest::parse(mount)?;
            if self.registry.blobs.holds(&digest).await? {
                return Ok(created(&blob_path(repository, &digest), &digest));
            }
        }
        let id = uploads.begin(repository).await?;
        if query.get("digest").is_none() {
            return Ok(progress(StatusCode::ACCEPTED, repository, &id, 0));
        }
        let whole = async {
            let digest = query.digest()?;
            self.append(repository, &id, headers, body).await?;
            self.finish(repository, &id, &digest).await
        };
        let answer = whole.await;
        if answer.is_err() {
            // Nobody knows its id, so nobody could continue it.
            uploads.cancel(repository, &id).ok();
        }
        answer
    }

    async fn append(&self, repository: &str, id: &str, headers: &HeaderMap, body: Body) -> Answer {
        let upload = self.registry.uploads.find(repository, id)?;
        let mut upload = upload.lock().await;
        if let Some(value) = headers.get(header::CONTENT_RANGE) {
            let wrong = || Refusal::new(Code::BlobUploadInvalid, "Content-Range must be START-END");
            let text = value.to_str().map_err(|_| wrong())?;
            let (start, _) = text.trim_start_matches("bytes ").split_once('-').ok_or_else(wrong)?;
            if start.parse::<u64>().map_err(|_| wrong())? != upload.size {
                return Err(Refusal::out_of_order(upload.size));
            }
        }
        // What is declared too large is refused before it is taken.
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let appended = match declared {
            Some(bytes) if upload.size.saturating_add(bytes) > MAX_BLOB_BYTES => Err(too_large()),
            _ => upload.append(body).await,
        };
        match appended {
            Ok(()) => Ok(progress(StatusCode::ACCEPTED, repository, id, upload.size)),
            Err(refusal) => {
                if refusal.code == Code::SizeInvalid {
                    self.registry.uploads.cancel(repository, id).ok();
                }
                Err(refusal)
            }
        }
    }

    async fn finish(&self, repository: &str, id: &str, digest: &Digest) -> Answer {
        self.registry.uploads.finish(repository, id, digest).await?;
        Ok(created(&blob_path(repository, digest), digest))
    }

    async fn blob(&self, digest: &Digest, method: &Method, headers: &HeaderMap) -> Answer {
        let unknown = || Refusal::new(Code::BlobUnknown, format!("there is no blob {}", digest.as_str()));
        // Who asks for the head wants to know whether a push is needed; who reads checks the digest.
        if method == Method::HEAD && !self.registry.blobs.holds(digest).await? {
            return Err(unknown());
        }
        let (mut file, size) = self.registry.blobs.read(digest).await?.ok_or_else(unknown)?;
        let answer = Response::builder()
            .header(header::CONTENT_TYPE, OCTETS)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(CONTENT_DIGEST, digest.as_str());
        let wanted = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let wanted = wanted.map_or(Wanted::Whole, |text| byte_range(text, size));
        let (answer, start, length) = match wanted {
            Wanted::Whole => (answer, 0, size),
            Wanted::Part(start, end) => {
                let answer = answer.status(StatusCode::PARTIAL_CONTENT);
                (answer.header(header::CONTENT_RANGE, format!("bytes {start}-{end}/{size}")), start, end - start + 1)
            }
            Wanted::Beyond => return Err(Refusal::new(Code::RangeInvalid, format!("the blob has {size} bytes"))),
        };
        let answer = answer.header(header::CONTENT_LENGTH, length);
        if method == Method::HEAD {
            return finished(answer, Body::empty());
        }
        file.seek(SeekFrom::Start(start)).await?;
        finished(answer, Body::from_stream(ReaderStream::new(file.take(length))))
    }

    async fn manifest(&self, repository: &str, reference: &Reference, method: &Method) -> Answer {
        let manifest = self.registry.manifests.get(repository, reference).await?.ok_or_else(manifest_unknown)?;
        let answer = Response::builder()
            .header(header::CONTENT_TYPE, manifest.media_type.as_str())
            .header(header::CONTENT_LENGTH, manifest.content.len())
            .header(CONTENT_DIGEST, manifest.digest().as_str());
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(manifest.content) };
        finished(answer, body)
    }

    async fn put_manifest(&self, repository: &str, reference: &Reference, headers: &HeaderMap, body: Body) -> Answer {
        let content = match Limited::new(body, MAX_MANIFEST_BYTES).collect().await {
            Ok(content) => content.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("a manifest may have {MAX_MANIFEST_BYTES} bytes at most");
                return Err(Refusal::new(Code::SizeInvalid, message));
            }
            Err(error) => return Err(invalid(&format!("the body broke off: {error}"))),
        };
        let parsed: Value = serde_json::from_slice(&content).map_err(|error| invalid(&format!("not JSON: {error}")))?;
        let media_type = media_type(&parsed, headers)?;
        self.check_references(repository, &parsed).await?;
        let manifest = Manifest { media_type, content };
        if let Reference::Digest(digest) = reference
            && manifest.digest() != *digest
        {
            let message = format!("the content is {}, not {}", manifest.digest().as_str(), digest.as_str());
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
        let digest = self.registry.manifests.put(repository, reference, &manifest).await?;
        let mut answer = created(&format!("/v2/{repository}/manifests/{}", digest.as_str()), &digest);
        if let Some(subject) = parsed["subject"]["digest"].as_str().and_then(|text| text.parse().ok()) {
            answer.headers_mut().insert(SUBJECT, subject);
        }
        Ok(answer)
    }

    /// Everything that a manifest refers to must be there before it.
    async fn check_references(&self, repository: &str, manifest: &Value) -> Result<(), Refusal> {
        let missing =
            |digest: &Digest| Refusal::new(Code::ManifestBlobUnknown, format!("there is no {}", digest.as_str()));
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for descriptor in manifest.get("config").into_iter().chain(layers) {
            let digest = descriptor_digest(descriptor)?;
            if !self.registry.blobs.holds(&digest).await? {
                return Err(missing(&digest));
            }
        }
        for descriptor in manifest["manifests"].as_array().into_iter().flatten() {
            let digest = descriptor_digest(descriptor)?;
            let reference = Reference::Digest(digest.clone());
            if self.registry.manifests.get(repository, &reference).await?.is_none() {
                return Err(missing(&digest));
            }
        }
        Ok(())
    }

    async fn tags(&self, repository: &str, query: &Query) -> Answer {
        let unknown = || Refusal::new(Code::NameUnknown, format!("there is no repository {repository}"));
        let tags = self.registry.manifests.tags(repository).await?.ok_or_else(unknown)?;
        let (tags, next) = page(tags, query)?;
        let answer = json_answer(&json!({"name": repository, "tags": tags}));
        Ok(linked(answer, next.map(|query| format!("/v2/{repository}/tags/list?{query}"))))
    }

    async fn catalog(&self, query: &Query) -> Answer {
        let (repositories, next) = page(self.registry.manifests.repositories().await?, query)?;
        let answer = json_answer(&json!({"repositories": repositories}));
        Ok(linked(answer, next.map(|query| format!("/v2/_catalog?{query}"))))
    }

    async fn referrers(&self, repository: &str, subject: &Digest, query: &Query) -> Answer {
        let wanted = query.get("artifactType");
        let manifests = self.registry.manifests.referrers(repository, subject).await?;
        let descriptors: Vec<Value> = manifests
            .iter()
            .map(descriptor)
            .filter(|descriptor| wanted.is_none_or(|wanted| descriptor["artifactType"] == wanted))
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors});
        let mut answer = Response::builder().header(header::CONTENT_TYPE, INDEX_TYPE);
        if wanted.is_some() {
            answer = answer.header("OCI-Filters-Applied", "artifactType");
        }
        finished(answer, Body::from(index.to_string()))
    }
}

/// Administrators push; nodes pull.
fn permit(identity: &Identity, method: &Method) -> Result<(), Refusal> {
    let reads = method == Method::GET || method == Method::HEAD;
    if identity.is_in(GROUP_MASTERS) || (reads && identity.node_name().is_some()) {
        return Ok(());
    }
    let what = if reads { "pull from" } else { "push to" };
    Err(Refusal::new(Code::Denied, format!("user \"{}\" may not {what} the registry", identity.user)))
}

/// The media type that the manifest states, which the header may not contradict.
fn media_type(manifest: &Value, headers: &HeaderMap) -> Result<String, Refusal> {
    if !manifest.is_object() || manifest["schemaVersion"] != 2 {
        return Err(invalid("must be a JSON object with schemaVersion 2"));
    }
    let stated = manifest["mediaType"].as_str();
    let header = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let header = header.and_then(|text| text.split(';').next()).map(str::trim);
    match (stated, header) {
        (Some(stated), Some(header)) if stated != header => {
            Err(invalid(&format!("mediaType is {stated}, but Content-Type is {header}")))
        }
        (Some(text), _) | (None, Some(text))
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(invalid("neither mediaType nor Content-Type says what it is")),
    }
}

fn descriptor_digest(descriptor: &Value) -> Result<Digest, Refusal> {
    let digest = descriptor["digest"].as_str().ok_or_else(|| invalid("a descriptor has no digest"))?;
    Digest::parse(digest).map_err(|_| invalid(&format!("\"{digest}\" is not a sha256 digest")))
}

/// A manifest as an index lists it.
fn descriptor(manifest: &Manifest) -> Value {
    let content: Value = serde_json::from_slice(&manifest.content).unwrap_or_default();
    let mut descriptor = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest().as_str(),
        "size": manifest.content.len(),
    });
    let artifact_type = content.get("artifactType").or_else(|| content["config"].get("mediaType"));
    for (field, value) in [("artifactType", artifact_type), ("annotations", content.get("annotations"))] {
        if let Some(value) = value {
            descriptor[field] = value.clone();
        }
    }
    descriptor
}
