//! Measures what is promised of deployments, of the network and of large clusters, on this machine, beside a
//! yardstick taken in the same run where there is one:
//!
//!   cargo build --release --workspace
//!   cargo run --release -p skep-tests --bin bench -- NAME
//!
//! It prints a table and ends with 1 if a figure does not hold. It needs root, as
//! it makes namespaces, and removes them.

mod deployments;
mod kernel;
mod lists;
mod nodes;
mod scale;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Measures one thing, or all.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[arg(required = true)]
    names: Vec<Benchmark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// Services created, updated, rotated, and a write after the leader is killed, on three managers.
    Deployments,
    /// Bytes a second between tasks on two nodes, by a bare VXLAN device made by hand.
    Throughput,
    /// Until a task's namespace with one network is there.
    Attach,
    /// Until 100 backends of a service are replaced by 100 others in a task.
    Backends,
    /// A change of one endpoint on a node with 100 tasks, by the same with 10.
    EndpointChange,
    /// Whether a task of a new service answers by name as soon as `service create` has returned.
    NameAfterCreate,
    /// Lists of a cluster with 1,000 services and 100,000 tasks, by the real `skep`.
    Lists,
    /// What the manager's core does in a second at 100 and 1,000 nodes and up to 100,000 tasks, and what
    /// a change costs that grows with what there is. Minutes long, and not one of `all`.
    Scale,
    /// All of them but `scale`, in this order.
    All,
}

/// One line of the table.
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// Whether it holds, and what was promised; nothing for a yardstick.
    figure: Option<(bool, String)>,
}

impl Row {
    fn plain(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, figure: None }
    }

    fn at_most(what: impl Into<String>, value: f64, unit: &'static str, limit: f64) -> Self {
        Self { what: what.into(), value, unit, figure: Some((value <= limit, format!("≤ {limit}"))) }
    }

    fn at_least(what: impl Into<String>, value: f64, unit: &'static str, limit: f64) -> Self {
        Self { what: what.into(), value, unit, figure: Some((value >= limit, format!("≥ {limit}"))) }
    }
}

/// Measures one thing, or all; each row is shown as soon as it is known.
fn measure(name: Benchmark, show: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
    let rows = match name {
        Benchmark::Deployments => deployments::deployments(),
        Benchmark::Throughput => nodes::throughput()?,
        Benchmark::Attach => kernel::attach()?,
        Benchmark::Backends => kernel::backends()?,
        Benchmark::EndpointChange => kernel::endpoint_change()?,
        Benchmark::NameAfterCreate => nodes::name_after_create(),
        Benchmark::Lists => lists::lists()?,
        Benchmark::Scale => return scale::scale(show),
        Benchmark::All => {
            let each = [
                Benchmark::Deployments,
                Benchmark::Throughput,
                Benchmark::Attach,
                Benchmark::Backends,
                Benchmark::EndpointChange,
                Benchmark::NameAfterCreate,
                Benchmark::Lists,
            ];
            return each.into_iter().try_for_each(|name| measure(name, show));
        }
    };
    rows.into_iter().for_each(show);
    Ok(())
}

fn run() -> anyhow::Result<bool> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().context("cannot find this program")?;
    if std::env::var_os("SKEP_BIN_DIR").is_none() {
        // The cluster runs the binaries beside this one, and learns that from the environment.
        let folder = own.parent().context("this program is in no folder")?;
        let error = Command::new(&own).args(std::env::args_os().skip(1)).env("SKEP_BIN_DIR", folder).exec();
        return Err(error).context("cannot start anew");
    }
    let mut holds = true;
    for name in arguments.names {
        measure(name, &mut |row| {
            let figure = row.figure.map_or_else(String::new, |(is_met, text)| {
                holds &= is_met;
                format!("{text}{}", if is_met { "" } else { "  NOT MET" })
            });
            println!("{:<64} {:>12.3} {:<8} {figure}", row.what, row.value, row.unit);
        })?;
    }
    Ok(holds)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
