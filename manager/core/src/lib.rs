//! The brain of a manager: events in, actions out.
//!
//! Nothing below this line opens a socket or a file, reads a clock, draws a
//! random number that does not come from the seed, or iterates an unordered map.
//! The shell (`skep-manager`) and the simulator (`skep-tests`) are two
//! interpreters of [`Action`].
//!
//! The way of a change: [`control`] admits a request as a [`Transaction`],
//! [`consensus`] has it agreed, [`store`] applies it, and the [`leader`] turns
//! what became dirty into further transactions; [`publication`] follows who is to be
//! found where, and [`dispatch`] tells the agents. [`query`] answers who only asks.
//!
//! A room imports only what stands to the right of it:
//! `manager → leader, control, dispatch, membership → publication → rules → store`.

pub mod action;
pub mod clock;
pub mod consensus;
pub mod control;
pub mod dispatch;
pub mod event;
pub mod leader;
pub mod manager;
mod membership;
pub mod mint;
pub mod publication;
pub mod query;
mod rules;
pub mod store;
mod ticket;
pub mod timing;
pub mod transaction;
pub mod values;

pub use action::Action;
pub use clock::Moment;
pub use event::Event;
pub use manager::{Config, Manager, Recovered};
pub use mint::Mint;
pub use store::Store;
pub use ticket::Ticket;
pub use transaction::{Precondition, Transaction, Write};
