//! What was once on a wire or a disk keeps its meaning: fields, enum values and
//! calls are only ever added.
//!
//! `descriptors.txt` lists them all. After an addition, run this test once with
//! `SKEP_UPDATE_DESCRIPTORS=1` and commit the file; that refuses removals too.

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};
use std::collections::BTreeSet;

const LISTED: &str = include_str!("descriptors.txt");

#[test]
fn nothing_that_was_committed_is_gone() {
    let current = list();
    let committed: BTreeSet<&str> = LISTED.lines().collect();
    let gone: Vec<_> = committed.iter().filter(|line| !current.contains(**line)).collect();
    assert!(gone.is_empty(), "these were changed or removed, which old logs and nodes do not survive: {gone:#?}");
    if std::env::var_os("SKEP_UPDATE_DESCRIPTORS").is_some() {
        let text: String = current.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/descriptors.txt"), text).expect("the list can be written");
        return;
    }
    let new: Vec<_> = current.iter().filter(|line| !committed.contains(line.as_str())).collect();
    assert!(new.is_empty(), "these are not in descriptors.txt yet, run with SKEP_UPDATE_DESCRIPTORS=1: {new:#?}");
}

fn list() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(skep_proto::DESCRIPTORS).expect("our descriptors decode");
    let mut lines = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        file.message_type.iter().for_each(|message| list_message(package, message, &mut lines));
        file.enum_type.iter().for_each(|choice| list_enum(package, choice, &mut lines));
        file.service.iter().for_each(|service| list_service(package, service, &mut lines));
    }
    lines
}

fn list_message(outer: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let path = format!("{outer}.{}", message.name());
    lines.insert(format!("message {path}"));
    for field in &message.field {
        let presence = match field.oneof_index {
            _ if field.proto3_optional() => "optional".to_owned(),
            Some(index) => format!("oneof {}", message.oneof_decl[index as usize].name()),
            None => format!("{:?}", field.label()).to_lowercase().replace("optional", "plain"),
        };
        let kind = format!("{:?}", field.r#type()).to_lowercase();
        lines.insert(format!("field {path} {:03} {} {kind}{} {presence}", field.number(), field.name(), field.type_name()));
    }
    message.nested_type.iter().for_each(|nested| list_message(&path, nested, lines));
    message.enum_type.iter().for_each(|choice| list_enum(&path, choice, lines));
}

fn list_enum(outer: &str, choice: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &choice.value {
        lines.insert(format!("enum {outer}.{} {:03} {}", choice.name(), value.number(), value.name()));
    }
}

fn list_service(outer: &str, service: &ServiceDescriptorProto, lines: &mut BTreeSet<String>) {
    for call in &service.method {
        let stream = |is_stream| if is_stream { "stream " } else { "" };
        lines.insert(format!(
            "call {outer}.{}.{} ({}{}) -> ({}{})",
            service.name(),
            call.name(),
            stream(call.client_streaming()),
            call.input_type(),
            stream(call.server_streaming()),
            call.output_type()
        ));
    }
}
