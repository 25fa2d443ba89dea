//! Our messages against an independent implementation of Envoy's: what one writes the other reads, field by field.
//!
//! Every message is filled at random by its descriptor, written by us, read and written by `envoy-types`, and read by
//! us again. A field that is missing on either side, or has another number or type, is lost on the way.

use envoy_guard::grpc::DESCRIPTORS;
use envoy_guard::grpc::pb::envoy::service::{auth::v3 as our_auth, ext_proc::v3 as our_proc};
use envoy_types::pb::envoy::service::{auth::v3 as their_auth, ext_proc::v3 as their_proc};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Messages inside messages are filled down to this depth; `google.protobuf.Struct` is recursive.
const DEPTH: u32 = 12;

/// Writes random messages by their descriptors.
struct Filler {
    messages: Vec<(String, DescriptorProto)>,
    runner: TestRunner,
}

impl Filler {
    fn new() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut messages = Vec::new();
        for file in set.file {
            for message in file.message_type {
                collect(&format!(".{}", file.package.clone().unwrap_or_default()), message, &mut messages);
            }
        }
        Self { messages, runner: TestRunner::deterministic() }
    }

    fn number<T>(&mut self, strategy: impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    /// A message with every field set, of a oneof one field.
    fn message(&mut self, name: &str, depth: u32) -> Vec<u8> {
        let descriptor =
            self.messages.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name}")).1.clone();
        let mut bytes = Vec::new();
        let mut chosen = vec![None; descriptor.oneof_decl.len()];
        for field in &descriptor.field {
            if let Some(index) = field.oneof_index {
                let members = descriptor.field.iter().filter(|other| other.oneof_index == Some(index));
                let numbers: Vec<i32> = members.map(FieldDescriptorProto::number).collect();
                let slot = &mut chosen[index as usize];
                let winner = match *slot {
                    Some(winner) => winner,
                    None => self.number(proptest::sample::select(numbers)),
                };
                chosen[index as usize] = Some(winner);
                if winner != field.number() {
                    continue;
                }
            }
            // A map has one entry: the order of more would be up to the writer.
            let is_map = field.r#type() == Type::Message && self.is_map_entry(field.type_name());
            let times = if field.label() == Label::Repeated && !is_map { 2 } else { 1 };
            for _ in 0..times {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn is_map_entry(&self, name: &str) -> bool {
        let found = self.messages.iter().find(|(known, _)| known == name);
        found.is_some_and(|(_, message)| message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry))
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, bytes: &mut Vec<u8>) {
        use prost::encoding::{WireType, encode_key, encode_varint};
        let tag = field.number() as u32;
        match field.r#type() {
            Type::Double => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                let value: f64 = self.number(1.0..1e9);
                bytes.extend(value.to_le_bytes());
            }
            Type::Bool => {
                encode_key(tag, WireType::Varint, bytes);
                encode_varint(1, bytes);
            }
            Type::Int32 | Type::Uint32 | Type::Int64 => {
                encode_key(tag, WireType::Varint, bytes);
                encode_varint(self.number(1..1_u64 << 31), bytes);
            }
            Type::Enum => {
                encode_key(tag, WireType::Varint, bytes);
                encode_varint(self.number(1..3_u64), bytes);
            }
            Type::String => {
                let text: String = self.number("[ -~äöü]{1,12}");
                encode_key(tag, WireType::LengthDelimited, bytes);
                encode_varint(text.len() as u64, bytes);
                bytes.extend(text.into_bytes());
            }
            Type::Bytes => {
                let value: Vec<u8> = self.number(proptest::collection::vec(0..=255_u8, 1..12));
                encode_key(tag, WireType::LengthDelimited, bytes);
                encode_varint(value.len() as u64, bytes);
                bytes.extend(value);
            }
            Type::Message => {
                let Some(deeper) = depth.checked_sub(1) else { return };
                let value = self.message(field.type_name(), deeper);
                encode_key(tag, WireType::LengthDelimited, bytes);
                encode_varint(value.len() as u64, bytes);
                bytes.extend(value);
            }
            other => panic!("no field of ours is a {other:?}"),
        }
    }
}

fn collect(scope: &str, message: DescriptorProto, messages: &mut Vec<(String, DescriptorProto)>) {
    let name = format!("{scope}.{}", message.name());
    for nested in message.nested_type.clone() {
        collect(&name, nested, messages);
    }
    messages.push((name, message));
}

/// Fills `name` many times and sends it there and back.
fn there_and_back<Ours, Theirs>(name: &str)
where
    Ours: Message + Default + PartialEq + std::fmt::Debug,
    Theirs: Message + Default + std::fmt::Debug,
{
    let mut filler = Filler::new();
    for round in 0..Config::default().cases {
        let filled = filler.message(name, DEPTH);
        let ours = Ours::decode(&filled[..]).unwrap_or_else(|error| panic!("{name}, round {round}: {error}"));
        let theirs = Theirs::decode(&ours.encode_to_vec()[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            theirs.encoded_len(),
            ours.encoded_len(),
            "{name}: a field of ours is unknown there: {ours:?} {theirs:?}"
        );
        let back = Ours::decode(&theirs.encode_to_vec()[..]).unwrap();
        assert_eq!(back, ours, "{name}");
    }
}

#[test]
fn check_messages_are_envoys() {
    there_and_back::<our_auth::CheckRequest, their_auth::CheckRequest>(".envoy.service.auth.v3.CheckRequest");
    there_and_back::<our_auth::CheckResponse, their_auth::CheckResponse>(".envoy.service.auth.v3.CheckResponse");
}

#[test]
fn process_messages_are_envoys() {
    let name = ".envoy.service.ext_proc.v3.ProcessingRequest";
    there_and_back::<our_proc::ProcessingRequest, their_proc::ProcessingRequest>(name);
    let name = ".envoy.service.ext_proc.v3.ProcessingResponse";
    there_and_back::<our_proc::ProcessingResponse, their_proc::ProcessingResponse>(name);
}

/// Enum values travel as numbers, so their names are compared here.
#[test]
fn enum_values_have_envoys_numbers() {
    use envoy_guard::grpc::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction as Ours;
    use envoy_guard::grpc::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode as our_mode;
    use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction as Theirs;
    use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode as their_mode;
    for number in 0..8 {
        let name = |value: Option<&'static str>| value.unwrap_or("none");
        let ours = Ours::try_from(number).ok().map(|value| value.as_str_name());
        assert_eq!(name(ours), name(Theirs::try_from(number).ok().map(|value| value.as_str_name())));
        let ours = our_mode::BodySendMode::try_from(number).ok().map(|value| value.as_str_name());
        let theirs = their_mode::BodySendMode::try_from(number).ok().map(|value| value.as_str_name());
        assert_eq!(name(ours), name(theirs));
        let ours = our_mode::HeaderSendMode::try_from(number).ok().map(|value| value.as_str_name());
        let theirs = their_mode::HeaderSendMode::try_from(number).ok().map(|value| value.as_str_name());
        assert_eq!(name(ours), name(theirs));
        let ours = our_proc::common_response::ResponseStatus::try_from(number).ok().map(|value| value.as_str_name());
        let theirs =
            their_proc::common_response::ResponseStatus::try_from(number).ok().map(|value| value.as_str_name());
        assert_eq!(name(ours), name(theirs));
    }
}
