//! Recent changes, for watches that begin or resume at a version.
