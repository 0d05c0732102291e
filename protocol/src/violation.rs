//! Each way a client can break MQTT 3.1.1 towards the broker, by the number of the normative
//! statement, and each limit of the broker's own.
//!
//! Decoding and the session return these; every one ends with the network connection closed
//! ([MQTT-4.8.0-1]). The few that a CONNACK answers first say so in [`Violation::connack_code`].
//!
//! Not here, because no server can see them: a retransmission without DUP ([MQTT-3.3.1-1]), a
//! packet identifier in a QoS 0 PUBLISH ([MQTT-2.3.1-5], it reads as payload), fields in another
//! order ([MQTT-3.1.3-1]). Acknowledgements out of order ([MQTT-4.6.0-2] to [MQTT-4.6.0-4]) are
//! tolerated: each names its message; so are those for which nothing is in flight.

/// Defines the enum with message, clause and list from one table, so that they cannot disagree.
macro_rules! violations {
    ($($name:ident = $clause:literal, $message:literal;)+) => {
        /// A broken rule, or a limit met. The message names the clause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Violation {
            $(
                #[doc = concat!("[", $clause, "] ", $message, ".")]
                #[error("{} [{}]", $message, $clause)]
                $name,
            )+
        }

        impl Violation {
            /// All of them, in the order of the standard; for counters and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Number of the normative statement (`MQTT-3.3.1-4`), section of the standard where
            /// there is no number, or the configuration key of a limit.
            pub const fn clause(self) -> &'static str {
                match self { $(Self::$name => $clause),+ }
            }

            /// The variant's name, for counters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

violations! {
    IllFormedUtf8 = "MQTT-1.5.3-1", "a string is not well-formed UTF-8";
    NullCharacter = "MQTT-1.5.3-2", "a string contains U+0000";
    ReservedFlags = "MQTT-2.2.2-2", "the fixed header has a reserved flag set";
    PacketIdZero = "MQTT-2.3.1-1", "the packet identifier is zero";
    PacketIdInUse = "MQTT-2.3.1-2", "the packet identifier is in use by another packet";
    PacketIdUnknown = "MQTT-2.3.1-6", "the acknowledgement names a packet identifier that was not sent";
    FirstPacketNotConnect = "MQTT-3.1.0-1", "the first packet is not CONNECT";
    SecondConnect = "MQTT-3.1.0-2", "CONNECT came a second time";
    ProtocolName = "MQTT-3.1.2-1", "the protocol name is neither MQTT nor MQIsdp";
    UnacceptableProtocolLevel = "MQTT-3.1.2-2", "the protocol level is not supported: use 4 (MQTT 3.1.1) or MQIsdp's 3";
    ConnectReservedFlag = "MQTT-3.1.2-3", "the reserved CONNECT flag is set";
    WillFieldsMissing = "MQTT-3.1.2-9", "the Will Flag is set and Will Topic or Will Message is missing";
    ConnectUnannouncedField = "MQTT-3.1.2-11", "the CONNECT payload has a field that its flags don't announce (also MQTT-3.1.2-18, -20)";
    WillQosWithoutWill = "MQTT-3.1.2-13", "Will QoS is set without the Will Flag";
    WillQosThree = "MQTT-3.1.2-14", "Will QoS is 3";
    WillRetainWithoutWill = "MQTT-3.1.2-15", "Will Retain is set without the Will Flag";
    UserNameMissing = "MQTT-3.1.2-19", "the User Name Flag is set and the user name is missing";
    PasswordMissing = "MQTT-3.1.2-21", "the Password Flag is set and the password is missing";
    PasswordWithoutUserName = "MQTT-3.1.2-22", "the Password Flag is set without the User Name Flag";
    KeepAliveElapsed = "MQTT-3.1.2-24", "nothing came for one and a half times the Keep Alive";
    ClientIdMissing = "MQTT-3.1.3-3", "the client identifier is missing";
    ClientIdNotUtf8 = "MQTT-3.1.3-4", "the client identifier is not well-formed UTF-8";
    IdentifierRejected = "MQTT-3.1.3-8", "an empty client identifier needs Clean Session and MQTT 3.1.1";
    IdentifierNotAccepted = "MQTT-3.1.3-9", "the client identifier is not accepted here";
    WillTopicNotUtf8 = "MQTT-3.1.3-10", "the Will Topic is not well-formed UTF-8";
    UserNameNotUtf8 = "MQTT-3.1.3-11", "the user name is not well-formed UTF-8";
    DupWithQosZero = "MQTT-3.3.1-2", "DUP is set in a QoS 0 PUBLISH";
    PublishQosThree = "MQTT-3.3.1-4", "PUBLISH has both QoS bits set";
    TopicNotUtf8 = "MQTT-3.3.2-1", "the topic name is not well-formed UTF-8";
    WildcardInTopicName = "MQTT-3.3.2-2", "the topic name of a PUBLISH contains a wildcard";
    PubrelFlags = "MQTT-3.6.1-1", "the flags of PUBREL are not 0010";
    SubscribeFlags = "MQTT-3.8.1-1", "the flags of SUBSCRIBE are not 0010";
    SubscribeFilterNotUtf8 = "MQTT-3.8.3-1", "a topic filter of SUBSCRIBE is not well-formed UTF-8";
    SubscribeWithoutFilter = "MQTT-3.8.3-3", "SUBSCRIBE has no topic filter";
    SubscribeQos = "MQTT-3.8.3-4", "the requested QoS of a SUBSCRIBE is above 2 or its reserved bits are set";
    UnsubscribeFlags = "MQTT-3.10.1-1", "the flags of UNSUBSCRIBE are not 0010";
    UnsubscribeFilterNotUtf8 = "MQTT-3.10.3-1", "a topic filter of UNSUBSCRIBE is not well-formed UTF-8";
    UnsubscribeWithoutFilter = "MQTT-3.10.3-2", "UNSUBSCRIBE has no topic filter";
    PacketAfterDisconnect = "MQTT-3.14.4-1", "a packet came after DISCONNECT";
    EmptyTopic = "MQTT-4.7.0-1", "a topic name or filter is empty";
    MultiLevelWildcard = "MQTT-4.7.1-1", "# is not the whole last level of a topic filter";
    SingleLevelWildcard = "MQTT-4.7.1-2", "+ is not a whole level of a topic filter";
    WildcardInWillTopic = "MQTT-4.7.3-1", "the Will Topic contains a wildcard";
    ProtocolError = "MQTT-4.8.0-1", "the packet cannot be understood";
    TextFrame = "MQTT-6.0-1", "a WebSocket frame is not binary";
    ReservedPacketType = "section 2.2.1", "the packet type is reserved";
    ServerOnlyPacket = "section 2.2.1", "only a server sends this packet type";
    MalformedRemainingLength = "section 2.2.3", "the Remaining Length has more than four bytes";
    WrongAcknowledgement = "section 4.3", "the acknowledgement is not what the message in flight waits for";
    BodyTooShort = "section 2.2.3", "the packet is shorter than its fields";
    TrailingBytes = "section 2.2.3", "the packet is longer than its fields";
    PacketTooLarge = "limits.max_packet_size", "the packet is larger than the broker takes";
    TopicTooLong = "limits.max_topic_length", "a topic name or filter is longer than the broker takes";
    TooManyTopicLevels = "limits.max_topic_levels", "a topic name or filter has more levels than the broker takes";
    ControlCharacter = "limits.control_characters", "a string has a control character or a non-character (MQTT-1.5.3)";
    SharedSubscription = "section 4.7.2", "the broker has no shared subscriptions ($share)";
}

impl Violation {
    /// A limit of this broker, which the standard would have allowed to pass.
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::PacketTooLarge
                | Self::TopicTooLong
                | Self::TooManyTopicLevels
                | Self::ControlCharacter
        )
    }

    /// It ends no connection where a topic filter of a SUBSCRIBE has it: that filter is refused.
    pub const fn refuses_one_filter(self) -> bool {
        matches!(
            self,
            Self::TopicTooLong
                | Self::TooManyTopicLevels
                | Self::ControlCharacter
                | Self::SharedSubscription
        )
    }

    /// Return code of the CONNACK to send before closing; `None` where the connection is closed
    /// without one ([MQTT-3.1.4-1]).
    pub const fn connack_code(self) -> Option<u8> {
        match self {
            Self::UnacceptableProtocolLevel => Some(0x01),
            Self::IdentifierRejected | Self::IdentifierNotAccepted => Some(0x02),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_violation_names_its_clause_once() {
        let mut numbers = HashSet::new();
        for violation in Violation::ALL {
            let text = violation.to_string();
            assert!(text.contains(violation.clause()), "{text}");
            if violation.clause().starts_with("MQTT-") {
                assert!(numbers.insert(violation.clause()), "{text}: clause twice");
            }
            assert_eq!(violation.is_limit(), violation.clause().starts_with("limits."), "{text}");
        }
    }

    #[test]
    fn connack_answers_only_level_and_identifier() {
        let answered: Vec<_> =
            Violation::ALL.iter().filter_map(|v| v.connack_code().map(|code| (*v, code))).collect();
        assert_eq!(
            answered,
            [
                (Violation::UnacceptableProtocolLevel, 1),
                (Violation::IdentifierRejected, 2),
                (Violation::IdentifierNotAccepted, 2),
            ]
        );
    }
}
