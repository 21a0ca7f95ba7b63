//! A node whose clock is set off sees certificates in its own time. The offset is
//! the process's, so this is a test binary, and a test, of its own.

mod common;

use std::time::Duration;

use common::{CLUSTER, listen, node_at, soon};
use skep_host::clock;
use skep_identity::ca::{NODE_VALIDITY, RootCa};
use skep_identity::tls::{AcceptLimits, Connector};
use skep_identity::{Refusal, Role};
use tokio::io::AsyncReadExt;
use tokio_stream::StreamExt;

#[tokio::test]
async fn certificates_expire_by_the_offset_clock() {
    let real = clock::now();
    let offset = NODE_VALIDITY + Duration::from_secs(3600);
    clock::set_offset_ms(offset.as_millis() as i64).unwrap();
    clock::set_offset_ms(1).unwrap_err();
    assert!(clock::now() >= real + offset);

    let root = RootCa::create(real).unwrap();
    let (_incoming, _, address) = listen(node_at(&root, "m1", Role::Manager, CLUSTER, real), AcceptLimits::default()).await;
    let now = clock::now();
    let connector = Connector::member(node_at(&root, "m2", Role::Manager, CLUSTER, now));
    let error = soon(connector.open(&address)).await.unwrap_err();
    let refusal = Refusal::of(&error);
    assert!(matches!(refusal, Some(Refusal::Expired { .. })), "{refusal:?}");

    // A peer's certificate that ends in a moment takes its connection with it.
    let (mut incoming, connections, address) =
        listen(node_at(&root, "m1", Role::Manager, CLUSTER, now), AcceptLimits::default()).await;
    let ending = node_at(&root, "m3", Role::Manager, CLUSTER, clock::now() - NODE_VALIDITY + Duration::from_secs(2));
    let connector = Connector::member(ending);
    let (client, served) = tokio::join!(soon(connector.open(&address)), soon(incoming.next()));
    let (_client, mut served) = (client.unwrap(), served.unwrap().unwrap());
    let error = soon(served.read_u8()).await.unwrap_err();
    assert!(error.to_string().contains("certificate expired"), "{error}");
    drop(served);
    assert_eq!(connections.count(), 0);
}
