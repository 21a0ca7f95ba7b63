//! TLS between nodes over real loopback connections.

mod common;

use std::convert::Infallible;
use std::error::Error;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{CLUSTER, listen, node, node_at, parts, soon};
use skep_host::clock;
use skep_identity::ca::{NODE_VALIDITY, RootCa};
use skep_identity::tls::{AcceptLimits, Connector, Incoming, PeerInfo, PeerStream, PinnedRoot, RootFetch, server};
use skep_identity::token::JoinToken;
use skep_identity::{Refusal, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::Connected;
use tower::ServiceExt;

async fn accepted(incoming: &mut Incoming) -> PeerStream {
    soon(incoming.next()).await.unwrap().unwrap()
}

fn refusal(error: &(dyn Error + 'static)) -> Refusal {
    Refusal::of(error).unwrap_or_else(|| panic!("no refusal in {error:?}"))
}

#[tokio::test]
async fn a_member_is_known_by_its_certificate() {
    let root = RootCa::create(clock::now()).unwrap();
    let (mut incoming, connections, address) = listen(node(&root, "m1", Role::Manager), AcceptLimits::default()).await;
    let connector = Connector::member(node(&root, "w1", Role::Worker));
    let (client, server) = tokio::join!(soon(connector.open(&address)), accepted(&mut incoming));
    let peer = server.connect_info();
    let found = peer.node.expect("the client showed a certificate");
    assert_eq!((found.node_id.as_str(), found.role, found.cluster_id.as_str()), ("w1", Role::Worker, CLUSTER));
    assert!(peer.remote.ip().is_loopback());
    assert_eq!(client.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(connections.count(), 1);
    drop(server);
    assert_eq!(connections.count(), 0);
}

#[tokio::test]
async fn a_joiner_pins_the_root_before_it_trusts() {
    let root = RootCa::create(clock::now()).unwrap();
    let (mut incoming, _, address) = listen(node(&root, "m1", Role::Manager), AcceptLimits::default()).await;
    let (fetch, server) = tokio::join!(soon(RootFetch::connect(&address)), accepted(&mut incoming));
    fetch.unwrap();
    assert!(server.connect_info().node.is_none(), "who shows nothing is anonymous");
    drop(server);

    let token = JoinToken::generate(root.digest());
    let pinned = PinnedRoot::check(root.certificate_pem().as_bytes(), &token).unwrap();
    let connector = pinned.connector();
    let (client, server) = tokio::join!(soon(connector.open(&address)), accepted(&mut incoming));
    client.unwrap();
    assert!(server.connect_info().node.is_none());

    let other = RootCa::create(clock::now()).unwrap();
    let error = PinnedRoot::check(other.certificate_pem().as_bytes(), &token).err().unwrap();
    assert!(error.to_string().starts_with("remote CA does not match fingerprint"), "{error}");
    let token = JoinToken::generate(other.digest());
    let foreign = PinnedRoot::check(other.certificate_pem().as_bytes(), &token).unwrap();
    let error = soon(foreign.connector().open(&address)).await.unwrap_err();
    assert_eq!(refusal(&error), Refusal::UnknownIssuer);
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let root = RootCa::create(clock::now()).unwrap();
    let other = RootCa::create(clock::now()).unwrap();
    let now = clock::now();
    let server = node(&root, "m1", Role::Manager);
    let (incoming, connections, address) = listen(server.clone(), AcceptLimits::default()).await;

    // The client does not trust the server.
    let error = soon(Connector::member(node(&other, "x", Role::Manager)).open(&address)).await.unwrap_err();
    assert_eq!(refusal(&error), Refusal::UnknownIssuer);

    // The server does not trust the client, which learns it with its first read.
    let trusting_both = format!("{}{}", root.certificate_pem(), other.certificate_pem());
    let day = Duration::from_secs(24 * 3600);
    for (issuer, issued, expect) in [
        (&other, now, "it was not issued by the peer's CA"),
        (&root, now - NODE_VALIDITY - day, "it has expired, or the peer's clock is wrong"),
    ] {
        let client = parts(issuer, "x", Role::Manager, CLUSTER, issued);
        let client = skep_identity::tls::TlsIdentity::new(&client.material(&trusting_both)).unwrap();
        let mut stream = soon(Connector::member(client).open(&address)).await.unwrap();
        let error = soon(stream.read_u8()).await.unwrap_err();
        assert_eq!(refusal(&error), Refusal::RefusedByPeer { reason: expect });
    }

    // The right CA, but another cluster, and a certificate from the future.
    let client = Connector::member(node_at(&root, "x", Role::Manager, "cluster2", now));
    let error = soon(client.open(&address)).await.unwrap_err();
    assert_eq!(refusal(&error), Refusal::OtherCluster { found: CLUSTER.into(), expected: "cluster2".into() });
    assert_eq!(connections.count(), 0);
    drop(incoming);

    for (role, issued, is_expected) in [
        (Role::Worker, now, (|r| matches!(r, Refusal::OtherNode { .. })) as fn(&Refusal) -> bool),
        (Role::Manager, now - NODE_VALIDITY - day, |r| matches!(r, Refusal::Expired { .. })),
        (Role::Manager, now + day, |r| matches!(r, Refusal::ClockSkew { .. })),
    ] {
        let (_incoming, _, address) = listen(node_at(&root, "m2", role, CLUSTER, issued), AcceptLimits::default()).await;
        let error = soon(Connector::member(server.clone()).open(&address)).await.unwrap_err();
        assert!(is_expected(&refusal(&error)), "{error}");
    }
}

#[tokio::test]
async fn a_node_may_be_asked_for_by_id() {
    let root = RootCa::create(clock::now()).unwrap();
    let (_incoming, _, address) = listen(node(&root, "m1", Role::Manager), AcceptLimits::default()).await;
    let connector = Connector::member(node(&root, "m2", Role::Manager));
    soon(connector.clone().to_node("m1").open(&address)).await.unwrap();
    let error = soon(connector.to_node("m3").open(&address)).await.unwrap_err();
    assert!(matches!(refusal(&error), Refusal::OtherNode { .. }), "{error}");
}

#[tokio::test]
async fn a_renewal_changes_neither_listener_nor_connections() {
    let root = RootCa::create(clock::now()).unwrap();
    let identity = node(&root, "m1", Role::Manager);
    let (mut incoming, _, address) = listen(identity.clone(), AcceptLimits::default()).await;
    let connector = Connector::member(node(&root, "w1", Role::Worker));
    let (before, mut served) = tokio::join!(soon(connector.open(&address)), accepted(&mut incoming));
    let mut before = before.unwrap();

    let old_serial = identity.node().serial;
    let renewed = parts(&root, "m1", Role::Manager, CLUSTER, clock::now());
    identity.update(&renewed.material(root.certificate_pem())).unwrap();
    assert_ne!(identity.node().serial, old_serial);

    let after = soon(connector.open(&address)).await.unwrap();
    let shown = after.get_ref().1.peer_certificates().unwrap()[0].clone();
    let shown = skep_identity::NodeIdentity::from_der(&shown).unwrap();
    assert_eq!(shown.serial, identity.node().serial, "new connections see the new certificate");
    before.write_all(b"still here").await.unwrap();
    before.flush().await.unwrap();
    let mut text = [0; 10];
    soon(served.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"still here");

    // A key that does not belong to the certificate changes nothing.
    let wrong = parts(&root, "m1", Role::Manager, CLUSTER, clock::now());
    let mixed = common::Parts { key: wrong.key, chain_pem: renewed.chain_pem.clone() };
    identity.update(&mixed.material(root.certificate_pem())).unwrap_err();
    soon(connector.open(&address)).await.unwrap();
}

#[tokio::test]
async fn a_removed_node_loses_its_connections_and_only_it() {
    let root = RootCa::create(clock::now()).unwrap();
    let (mut incoming, connections, address) = listen(node(&root, "m1", Role::Manager), AcceptLimits::default()).await;
    let first = Connector::member(node(&root, "w1", Role::Worker));
    let second = Connector::member(node(&root, "w2", Role::Worker));
    let (gone, mut gone_served) = tokio::join!(soon(first.open(&address)), accepted(&mut incoming));
    let (stays, mut stays_served) = tokio::join!(soon(second.open(&address)), accepted(&mut incoming));
    // The server is waiting for bytes when the connection is closed under it.
    let waiting = tokio::spawn(async move { gone_served.read_u8().await.unwrap_err().kind() });
    tokio::task::yield_now().await;
    assert_eq!(connections.close_node("w1"), 1);
    assert_eq!(soon(waiting).await.unwrap(), std::io::ErrorKind::ConnectionAborted);
    soon(gone.unwrap().read_u8()).await.unwrap_err();
    let mut stays = stays.unwrap();
    stays.write_all(b"!").await.unwrap();
    stays.flush().await.unwrap();
    assert_eq!(soon(stays_served.read_u8()).await.unwrap(), b'!');
    assert_eq!(connections.close_node("w1"), 0);
}

#[tokio::test]
async fn a_silent_client_delays_nobody() {
    let root = RootCa::create(clock::now()).unwrap();
    let limits = AcceptLimits { handshakes_max: 4, handshake_deadline: Duration::from_secs(600), ..AcceptLimits::default() };
    let (mut incoming, _, address) = listen(node(&root, "m1", Role::Manager), limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let connector = Connector::member(node(&root, "w1", Role::Worker));
    let (client, _) = tokio::join!(soon(connector.open(&address)), accepted(&mut incoming));
    client.unwrap();
}

#[tokio::test]
async fn a_silent_client_is_dropped_at_the_deadline() {
    let root = RootCa::create(clock::now()).unwrap();
    let limits = AcceptLimits { handshake_deadline: Duration::from_secs(1), ..AcceptLimits::default() };
    let (mut incoming, _, address) = listen(node(&root, "m1", Role::Manager), limits).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let connector = Connector::member(node(&root, "w1", Role::Worker));
    let (client, _) = tokio::join!(soon(connector.open(&address)), accepted(&mut incoming));
    client.unwrap();
    assert_eq!(soon(silent.read(&mut [0; 1])).await.unwrap(), 0, "the server hung up");
}

/// Answers every request with the caller's node id.
#[derive(Clone)]
struct WhoAmI;

impl tonic::server::NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl tower::Service<Request<Body>> for WhoAmI {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>().expect("every request knows its peer");
        let name = peer.node.as_ref().map_or("nobody", |node| &node.node_id).to_owned();
        std::future::ready(Ok(Response::builder().header("peer", name).body(Body::empty()).unwrap()))
    }
}

async fn who_am_i(channel: tonic::transport::Channel) -> Result<String, tonic::transport::Error> {
    let request = Request::post("http://manager/test.WhoAmI/Ask").body(Body::empty()).unwrap();
    let response = soon(channel.oneshot(request)).await?;
    Ok(response.headers()["peer"].to_str().unwrap().to_owned())
}

#[tokio::test]
async fn requests_over_grpc_know_their_peer_and_reconnect() {
    let root = RootCa::create(clock::now()).unwrap();
    let (incoming, connections, address) = listen(node(&root, "m1", Role::Manager), AcceptLimits::default()).await;
    let serving = tokio::spawn(server().add_service(WhoAmI).serve_with_incoming(incoming));

    let member = Connector::member(node(&root, "w1", Role::Worker)).channel(&address).unwrap();
    assert_eq!(who_am_i(member.clone()).await.unwrap(), "w1");
    let anonymous = soon(RootFetch::connect(&address)).await.unwrap().channel();
    assert_eq!(who_am_i(anonymous).await.unwrap(), "nobody");

    let stranger = Connector::member(node(&RootCa::create(clock::now()).unwrap(), "x", Role::Worker));
    let error = soon(stranger.connect(&address)).await.unwrap_err();
    assert_eq!(refusal(&error), Refusal::UnknownIssuer);

    assert_eq!(connections.close_node("w1"), 1);
    // The request that meets the closed connection may fail; the channel then connects anew.
    let mut answer = who_am_i(member.clone()).await;
    if answer.is_err() {
        answer = who_am_i(member).await;
    }
    assert_eq!(answer.unwrap(), "w1");
    serving.abort();
}
