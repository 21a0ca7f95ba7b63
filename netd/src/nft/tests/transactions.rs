//! What the kernel takes at once, refuses, and tells of.

use super::*;

#[test]
fn a_refused_message_undoes_its_transaction_and_is_named() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    let generation = socket.generation().expect("a generation");
    let mut transaction = Transaction::new();
    let table = Table::new("skep_test");
    transaction.push(Edit::AddTable(table.clone()));
    transaction.push(Edit::AddChain(table.clone(), Chain::plain("here")));
    let rule = Rule::new("nowhere", [vec![Expr::Verdict(Verdict::Accept)]]);
    transaction.push(Edit::AddRule(table, rule));
    let error = socket.commit(&transaction).expect_err("there is no such chain");
    assert!(
        matches!(&error, Error::Refused { what, index: 3, n_messages: 3, errno: nix::errno::Errno::ENOENT, .. }
            if what == "add rule to skep_test nowhere"),
        "{error:?}"
    );
    assert_eq!(socket.fingerprint(&Table::new("skep_test")).expect("a dump"), None, "nothing of it was done");
    assert_eq!(socket.generation().expect("a generation"), generation);
    // The socket is good for the next one.
    socket.commit(&services::replace_all("task1", &[web(&ALL)])).expect("the rules are taken");
    assert_eq!(socket.generation().expect("a generation"), generation + 1);
}

#[test]
fn a_fingerprint_tells_every_change_and_rests_otherwise() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL)])).expect("the rules are taken");
    let first = socket.fingerprint(&Table::new(services::TABLE)).expect("a dump").expect("the table is there");
    assert_eq!(socket.fingerprint(&Table::new(services::TABLE)).expect("a dump"), Some(first));
    let flush = |socket: &mut Socket, chain: &str| {
        let mut transaction = Transaction::new();
        transaction.push(Edit::FlushChain(Table::new(services::TABLE), chain.to_owned()));
        socket.commit(&transaction).expect("the chain is emptied");
    };
    flush(&mut socket, "s4_web");
    let second = socket.fingerprint(&Table::new(services::TABLE)).expect("a dump").expect("the table is there");
    assert_ne!(first, second);
    let mut transaction = Transaction::new();
    let entry = Element::Decision(Value::from(IpAddr::from([10, 7, 0, 9])), Verdict::Drop);
    transaction.push(Edit::AddElements(Table::new(services::TABLE), "v4".to_owned(), vec![entry]));
    socket.commit(&transaction).expect("an element is added");
    assert_ne!(socket.fingerprint(&Table::new(services::TABLE)).expect("a dump"), Some(second));
}

#[test]
fn the_monitor_tells_our_own_transactions_from_foreign_ones() {
    let namespace = Namespace::new();
    let mut monitor = monitor::Monitor::open_in(namespace.fd()).expect("a monitor");
    let mut own = Socket::open_in(namespace.fd()).expect("a socket");
    let mut foreign = Socket::open_in(namespace.fd()).expect("a socket");
    own.commit(&names::replace(20053, 20053)).expect("the rules are taken");
    foreign.commit(&egress::replace(&[])).expect("the rules are taken");
    for (socket, table) in [(&own, names::TABLE), (&foreign, egress::TABLE)] {
        let event = monitor.hear().expect("events are read").expect("it is there when its author was answered");
        let monitor::Event::Committed(committed) = event else { panic!("{event:?}") };
        assert_eq!(committed.port, socket.port());
        assert_eq!(committed.tables.into_iter().collect::<Vec<_>>(), [table]);
        assert!(committed.generation > 0 && !committed.process.is_empty());
    }
    assert_eq!(monitor.hear().expect("events are read"), None);
    assert_ne!(own.port(), foreign.port());
}

#[test]
fn many_backends_and_many_services_are_one_transaction() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    let backends: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([10, 8, 0, n])).collect();
    let service = Service { key: "big".to_owned(), addresses: addresses(&["10.8.1.1"]), backends };
    let created = Instant::now();
    socket.commit(&services::replace_all("task1", std::slice::from_ref(&service))).expect("the rules are taken");
    let created = created.elapsed();
    let replaced = Instant::now();
    for _ in 0..50 {
        socket.commit(&services::replace_backends("task1", &service, &service)).expect("the backends are replaced");
    }
    println!("100 backends: created in {created:?}, replaced in {:?}", replaced.elapsed() / 50);
    let many: Vec<Service> = (0..5_000u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let both =
                |last: u8| vec![IpAddr::from([10, 9 + last, high, low]), IpAddr::from([0xfd09, 0, 0, 0, 0, 0, last.into(), n])];
            let backends = [both(1), both(2)].concat();
            Service { key: format!("{n}_{}", "k".repeat(90)), addresses: both(0), backends }
        })
        .collect();
    let start = Instant::now();
    socket.commit(&services::replace_all("task1", &many)).expect("5,000 services of both families are taken");
    let whole = start.elapsed();
    let start = Instant::now();
    socket.commit(&services::remove_all("task1", &many[..1])).expect("one is taken away");
    socket.commit(&services::add_all("task1", &many[..1])).expect("and added again");
    println!("5,000 services in {whole:?}, one taken away and added in {:?}", start.elapsed());
}
