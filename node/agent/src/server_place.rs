//! Where the server is, as the connection to it finds it: the one place where its name is looked up, and only when there has
//! to be a new connection. Who wants to know asks here; nothing is ever sent to find out.

use hyper_util::client::legacy::connect::dns::{GaiFuture, GaiResolver, Name};
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};
use tokio::sync::watch;
use tower::Service;

/// Addresses that are remembered: those of now, and those that it had before, which are still none for pods.
const ADDRESSES_MAX: usize = 16;

/// Where the server is. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct ServerPlace {
    port: u16,
    known: Arc<watch::Sender<Vec<SocketAddr>>>,
}

impl ServerPlace {
    /// Of `https://HOST:PORT`: one that is given by its address is known from the beginning.
    pub(crate) fn new(server: &str) -> Self {
        let authority = server.trim_start_matches("https://").trim_end_matches('/');
        let address: Option<SocketAddr> = authority.parse().ok();
        let port = authority.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        Self { port, known: Arc::new(watch::Sender::new(address.into_iter().collect())) }
    }

    /// What is known now and later; what was found last comes first.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.known.subscribe()
    }

    fn found(&self, addresses: &[IpAddr]) {
        let found: Vec<SocketAddr> = addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect();
        self.known.send_if_modified(|known| {
            let before = known.iter().copied().filter(|address| !found.contains(address));
            let next: Vec<SocketAddr> = found.iter().copied().chain(before).take(ADDRESSES_MAX).collect();
            let is_news = *known != next;
            *known = next;
            is_news
        });
    }

    /// Looks names up for a connection, and says here what it found.
    pub(crate) fn finder(&self) -> Finder {
        Finder { resolver: GaiResolver::new(), place: self.clone() }
    }
}

/// See [`ServerPlace::finder`].
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    resolver: GaiResolver,
    place: ServerPlace,
}

impl Service<Name> for Finder {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Finding;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.resolver.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Finding { looking: self.resolver.call(name), place: self.place.clone() }
    }
}

/// A look-up under way.
pub(crate) struct Finding {
    looking: GaiFuture,
    place: ServerPlace,
}

impl Future for Finding {
    type Output = io::Result<vec::IntoIter<SocketAddr>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let found: Vec<SocketAddr> = ready!(Pin::new(&mut self.looking).poll(context))?.collect();
        self.place.found(&found.iter().map(SocketAddr::ip).collect::<Vec<_>>());
        Poll::Ready(Ok(found.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(place: &ServerPlace) -> Vec<String> {
        place.watch().borrow().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_known_from_the_beginning() {
        assert_eq!(known(&ServerPlace::new("https://192.0.2.1:6443")), ["192.0.2.1:6443"]);
        assert_eq!(known(&ServerPlace::new("https://[2001:db8::1]:6443/")), ["[2001:db8::1]:6443"]);
        assert!(known(&ServerPlace::new("https://server.example:6443")).is_empty());
    }

    #[test]
    fn what_was_found_last_comes_first() {
        let place = ServerPlace::new("https://server.example:6443");
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        place.found(&[ip("192.0.2.1"), ip("192.0.2.2")]);
        let news = place.watch();
        place.found(&[ip("192.0.2.1"), ip("192.0.2.2")]);
        assert!(!news.has_changed().unwrap());
        place.found(&[ip("192.0.2.3"), ip("192.0.2.2")]);
        assert_eq!(known(&place), ["192.0.2.3:6443", "192.0.2.2:6443", "192.0.2.1:6443"]);
        (0..40).for_each(|last| place.found(&[IpAddr::from([198, 51, 100, last])]));
        assert_eq!(known(&place).len(), ADDRESSES_MAX);
        assert_eq!(known(&place)[0], "198.51.100.39:6443");
    }

    #[tokio::test]
    async fn a_look_up_says_what_it_found() {
        let place = ServerPlace::new("https://localhost:6443");
        let found: Vec<SocketAddr> = place.finder().call("localhost".parse().unwrap()).await.unwrap().collect();
        let ips = found.iter().map(SocketAddr::ip);
        assert!(!found.is_empty());
        assert_eq!(*place.watch().borrow(), ips.map(|ip| SocketAddr::new(ip, 6443)).collect::<Vec<_>>());
    }
}
