//! Wire form of transactions and log entries.
