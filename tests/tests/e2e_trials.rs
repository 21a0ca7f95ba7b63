//! One bad object, task, node or packet takes nothing down but itself.
//!
//! A cluster of three managers and two workers goes through one trial after the other, while clients ask a published
//! service 200 times a second through every node that is not on trial. After each trial the same must hold: no request
//! was lost, no node but the one on trial left `Ready`, and a new service on a network answers within three seconds.
//!
//! `check` tries a few of what can be counted; `SKEP_FULL=1` tries all of it.

mod trials {
    pub mod acts;
    pub mod bounds;
    pub mod judge;
    pub mod specs;
}

use skep_tests::e2e::{Cluster, Figures, is_full};
use trials::judge::Judge;
use trials::{acts, bounds, specs};

/// The worker and the manager that are made to suffer.
const WORKER: &str = "w2";
const MANAGER: &str = "m3";

#[test]
fn whatever_is_tried_the_rest_goes_on() {
    let mut figures = Figures::new("after a trial");
    let cluster = Cluster::up_with(3, 2, &["--disk", "400m"]);
    cluster.load_traffic();
    cluster.load_busybox();
    let mut judge = Judge::new(&cluster, &mut figures);

    judge.trial("objects at their bounds and beyond", None, |_| bounds::try_all(&cluster));
    let seed = specs::seed();
    let n = if is_full() { 300 } else { 12 };
    judge.trial("random services", None, |_| specs::try_some(&cluster, seed, n));
    judge.trial("networks with every option", None, |_| acts::networks(&cluster));
    judge.trial("secrets and configs that go at any moment", None, |_| acts::values(&cluster));
    judge.trial("a hostile task", None, |_| acts::hostile_task(&cluster));
    judge.trial("a flood of strangers at port 2377", None, |_| acts::strangers(&cluster));
    judge.trial("joining under odd addresses", Some(WORKER), |_| acts::odd_addresses(&cluster, WORKER));
    judge.trial("a worker's full disk", Some(WORKER), |_| acts::full_disk(&cluster, WORKER));
    judge.trial("a manager's full disk", Some(MANAGER), |_| acts::full_disk(&cluster, MANAGER));
    judge.trial("daemons killed while a task starts", Some(WORKER), |_| acts::kills(&cluster, WORKER));
}
