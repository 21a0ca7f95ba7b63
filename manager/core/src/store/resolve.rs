//! From a name, id or unique id prefix to an object.
