//! The list of all that is served.

use super::App;
use crate::{
    Door,
    auth::Authenticator,
    grpc, http,
    nodelink::{NodeBounds, NodeLinkService, NodeLinks},
    registry::{self, Registry},
};
use coracle_wire::{FILE_DESCRIPTOR_SET, v1::node_link_server::NodeLinkServer};
use std::sync::Arc;
use tonic::service::Routes;
use tonic_reflection::server::{Builder as Reflection, Error as ReflectionError};

/// What the services stand on.
pub struct Services {
    /// Objects.
    pub door: Arc<Door>,
    /// Connected nodes.
    pub links: Arc<NodeLinks>,
    /// Images.
    pub registry: Arc<Registry>,
    /// Who is who.
    pub authenticator: Arc<Authenticator>,
}

impl Services {
    /// Puts them together.
    ///
    /// # Errors
    /// When this build's gRPC descriptors cannot be read.
    pub fn into_app(self) -> Result<App, ReflectionError> {
        let Self { door, links, registry, authenticator } = self;
        let bounds = NodeBounds::new(&door);
        let objects = http::routes(Arc::clone(&door), Arc::clone(&authenticator));
        let http = objects.merge(registry::routes(registry, Arc::clone(&authenticator)));
        // Clients ask for either version of reflection.
        let reflection = || Reflection::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET);
        let services = Routes::new(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(grpc::objects::service(Arc::clone(&door), Arc::clone(&authenticator)))
            .add_service(grpc::logs::service(Arc::clone(&door), Arc::clone(&authenticator)))
            .add_service(grpc::sessions::service(Arc::clone(&door), Arc::clone(&authenticator)))
            .add_service(NodeLinkServer::new(NodeLinkService::new(
                links,
                Arc::clone(&authenticator),
                door,
                Arc::clone(&bounds),
            )));
        Ok(App::new(http, services, authenticator).with_bounds(bounds))
    }
}
