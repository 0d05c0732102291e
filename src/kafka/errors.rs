//! What each of librdkafka's error codes means for the records it is given for: one table, [`decide`].
//!
//! Whether a batch or one record was refused is not in the code. So a decision to refuse holds only
//! for a record that stood alone in its batch, or that Kafka named: others are sent again one by
//! one, and then each speaks for itself. Every doubt is [`Decision::Retry`], which loses nothing.

use hydrant_actors::ports::LogError;
use rdkafka::types::RDKafkaErrorCode;

/// What is done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It concerns everybody and may pass: all that has no answer is sent again after a reset.
    Retry,
    /// The record failed for another's sake or was taken back unsent: it is sent again as it is.
    Again,
    /// The batch is too large for its topic: its records go in smaller ones. A record that is too
    /// large by itself is refused, for this reason.
    Split(&'static str),
    /// The record can never be taken, for this reason.
    Refuse(&'static str),
    /// The topic takes nothing until somebody mends it: its records wait for `kafka.park_time`,
    /// then they are refused for this reason. Others go on.
    Park(&'static str),
    /// The topic takes nothing until Kafka has mended it: its records wait for as long as it
    /// takes. Others go on.
    Wait(&'static str),
    /// Kafka does not know the topic or the partition: it is asked again, the records wait.
    Look,
    /// The producer cannot go on: a new one sends everything without an answer again.
    Fatal,
}

use Decision::{Again, Fatal, Look, Park, Refuse, Retry, Split, Wait};

/// The table. `None`: a code that this version does not know; it counts as [`Decision::Retry`] and
/// is named in the log.
pub(super) fn decide(code: RDKafkaErrorCode) -> Option<Decision> {
    use RDKafkaErrorCode as E;
    Some(match code {
        // The record's size, alone or with its batch.
        E::MessageSizeTooLarge => Split("it is larger than the topic's max.message.bytes allows"),
        E::MessageBatchTooLarge => Split("it is larger than the topic's segment.bytes"),
        E::InvalidMessageSize => Split("Kafka says that its size is not legal"),

        // The record's own fault.
        E::InvalidRecord => Refuse(
            "Kafka does not take the record (a compacted topic wants a key: give the route one)",
        ),
        E::InvalidTimestamp => Refuse(
            "the record's time is outside the topic's message.timestamp.before.max.ms or after.max.ms",
        ),
        E::InvalidTopic => Refuse("Kafka says the topic's name is not legal"),
        E::PolicyViolation => Refuse("a policy of the Kafka cluster forbids it"),
        E::UnsupportedForMessageFormat => {
            Refuse("the topic's message.format.version is too old for headers")
        }
        E::UnsupportedCompressionType => {
            Refuse("Kafka does not know the codec: set kafka.compression to another")
        }

        // The topic's trouble.
        E::TopicAuthorizationFailed => {
            Park("Kafka does not let this broker write to the topic: give it WRITE on it")
        }
        E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend | E::ISRInsufficient => {
            Wait("it has fewer in-sync replicas than its min.insync.replicas")
        }
        E::KafkaStorageError | E::LogDirNotFound => {
            Wait("a disk of the Kafka broker that leads it does not work")
        }
        E::LeaderNotAvailable
        | E::NotLeaderForPartition
        | E::ReplicaNotAvailable
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::PreferredLeaderNotAvailable
        | E::EligibleLeadersNotAvailable => Wait("a partition of it has no leader"),
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition | E::UnknownTopicId => {
            Look
        }

        // Not about the record at all.
        E::InvalidDifferentRecord | E::PurgeQueue | E::PurgeInflight | E::Fatal => Again,
        E::GaplessGuarantee | E::Retry | E::Outdated => Again,

        // The producer's state.
        E::OutOfOrderSequenceNumber
        | E::DuplicateSequenceNumber
        | E::InvalidProducerEpoch
        | E::InvalidProducerIdMapping
        | E::UnknownProducerId
        | E::ProducerFenced
        | E::Fenced
        | E::Inconsistent
        | E::InvalidTransactionalState
        | E::InvalidTransactionTimeout
        | E::ConcurrentTransactions
        | E::TransactionCoordinatorFenced
        | E::TransactionalIdAuthorizationFailed
        | E::State
        | E::BrokerDestroy
        | E::DestroyBroker
        | E::CriticalSystemResource => Fatal,

        // Kafka, the way to it or what it lets this broker do: everybody's, and it may pass.
        E::Fail
        | E::BrokerTransportFailure
        | E::Resolve
        | E::MessageTimedOut
        | E::AllBrokersDown
        | E::OperationTimedOut
        | E::TimedOutQueue
        | E::QueueFull
        | E::NodeUpdate
        | E::SSL
        | E::Authentication
        | E::UnsupportedFeature
        | E::UnknownBroker
        | E::WaitCache
        | E::Interrupted
        | E::InProgress
        | E::PreviousInProgress
        | E::Unknown
        | E::InvalidMessage
        | E::RequestTimedOut
        | E::BrokerNotAvailable
        | E::StaleControllerEpoch
        | E::NetworkException
        | E::InvalidRequiredAcks
        | E::ClusterAuthorizationFailed
        | E::UnsupportedSASLMechanism
        | E::IllegalSASLState
        | E::UnsupportedVersion
        | E::NotController
        | E::InvalidRequest
        | E::SecurityDisabled
        | E::OperationNotAttempted
        | E::SaslAuthenticationFailed
        | E::ReassignmentInProgress
        | E::ListenerNotFound
        | E::StaleBrokerEpoch
        | E::ThrottlingQuotaExceeded
        | E::PrincipalDeserializationFailure
        | E::RebootstrapRequired => Retry,

        // What a client says about its own calls: no produce request has it. Nothing is lost by
        // trying again.
        E::BadMessage
        | E::BadCompression
        | E::FileSystem
        | E::InvalidArgument
        | E::UnknownProtocol
        | E::NotImplemented
        | E::NotConfigured
        | E::Conflict
        | E::KeySerialization
        | E::ValueSerialization
        | E::KeyDeserialization
        | E::ValueDeserialization
        | E::Partial
        | E::ReadOnly
        | E::NoEnt
        | E::Underflow
        | E::InvalidType
        | E::Application
        | E::Noop => Retry,

        // What consumers, groups, tokens and administrators are told.
        E::PartitionEOF
        | E::WaitingForCoordinator
        | E::UnknownGroup
        | E::ExistingSubscription
        | E::AssignPartitions
        | E::RevokePartitions
        | E::NoOffset
        | E::PollExceeded
        | E::AssignmentLost
        | E::AutoOffsetReset
        | E::LogTruncation
        | E::OffsetOutOfRange
        | E::OffsetMetadataTooLarge
        | E::CoordinatorLoadInProgress
        | E::CoordinatorNotAvailable
        | E::NotCoordinator
        | E::IllegalGeneration
        | E::InconsistentGroupProtocol
        | E::InvalidGroupId
        | E::UnknownMemberId
        | E::InvalidSessionTimeout
        | E::RebalanceInProgress
        | E::InvalidCommitOffsetSize
        | E::GroupAuthorizationFailed
        | E::TopicAlreadyExists
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::InvalidReplicaAssignment
        | E::InvalidConfig
        | E::DelegationTokenAuthDisabled
        | E::DelegationTokenNotFound
        | E::DelegationTokenOwnerMismatch
        | E::DelegationTokenRequestNotAllowed
        | E::DelegationTokenAuthorizationFailed
        | E::DelegationTokenExpired
        | E::InvalidPrincipalType
        | E::NonEmptyGroup
        | E::GroupIdNotFound
        | E::FetchSessionIdNotFound
        | E::InvalidFetchSessionEpoch
        | E::TopicDeletionDisabled
        | E::OffsetNotAvailable
        | E::MemberIdRequired
        | E::GroupMaxSizeReached
        | E::FencedInstanceId
        | E::ElectionNotNeeded
        | E::NoReassignmentInProgress
        | E::GroupSubscribedToTopic
        | E::UnstableOffsetCommit
        | E::ResourceNotFound
        | E::DuplicateResource
        | E::UnacceptableCredential
        | E::InconsistentVoterSet
        | E::InvalidUpdateVersion
        | E::FeatureUpdateFailed
        | E::FencedMemberEpoch
        | E::UnreleasedInstanceId
        | E::UnsupportedAssignor
        | E::StaleMemberEpoch
        | E::UnknownSubscriptionId
        | E::TelemetryTooLarge => Retry,

        _ => return None,
    })
}

/// [`decide`] as it is acted on: a code that is not known is retried, and [`text`] says so.
pub(super) fn decision(code: RDKafkaErrorCode) -> Decision {
    decide(code).unwrap_or(Retry)
}

/// The code's own text, for the log.
pub(super) fn text(code: RDKafkaErrorCode) -> String {
    match decide(code) {
        Some(_) => code.to_string(),
        None => format!(
            "{code}, error {}, which this version does not know and retries (please report it)",
            code as i32
        ),
    }
}

/// `Unavailable` with the code's own text.
pub(super) fn unavailable(code: RDKafkaErrorCode) -> LogError {
    LogError::Unavailable(text(code))
}

/// `Refused`, naming the topic.
pub(super) fn refused(topic: &str, why: &str) -> LogError {
    LogError::Refused(format!("Kafka topic {topic}: {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Every error that the librdkafka linked here can report, by its own list.
    #[allow(unsafe_code)]
    fn known_to_librdkafka() -> Vec<(String, RDKafkaErrorCode)> {
        let (mut list, mut count) = (std::ptr::null(), 0);
        // SAFETY: librdkafka sets both to a table that lives as long as the program.
        let table = unsafe {
            rdkafka::bindings::rd_kafka_get_err_descs(&raw mut list, &raw mut count);
            std::slice::from_raw_parts(list, count)
        };
        // The table has holes, and marks of its ends.
        let named = table.iter().filter(|entry| !entry.name.is_null() && !entry.desc.is_null());
        named
            .map(|entry| {
                // SAFETY: a C string of that table.
                let name = unsafe { std::ffi::CStr::from_ptr(entry.name) };
                (name.to_str().expect("text").to_owned(), RDKafkaErrorCode::from(entry.code))
            })
            .filter(|(_, code)| *code != RDKafkaErrorCode::NoError)
            .collect()
    }

    #[test]
    fn every_error_of_librdkafka_has_a_decision_of_its_own() {
        let codes = known_to_librdkafka();
        assert!(codes.len() > 150, "{} codes", codes.len());
        let without: Vec<_> = codes.iter().filter(|(_, code)| decide(*code).is_none()).collect();
        assert!(without.is_empty(), "errors.rs has no decision for {without:?}");
    }

    #[test]
    fn what_concerns_everybody_is_never_refused() {
        use RDKafkaErrorCode as E;
        for code in [
            E::MessageTimedOut,
            E::PurgeQueue,
            E::PurgeInflight,
            E::Fatal,
            E::GaplessGuarantee,
            E::InvalidDifferentRecord,
            E::NotEnoughReplicas,
            E::ClusterAuthorizationFailed,
            E::OutOfOrderSequenceNumber,
            E::AllBrokersDown,
        ] {
            assert!(!matches!(decision(code), Refuse(_) | Split(_)), "{code:?}");
        }
    }

    #[test]
    fn each_kind_of_trouble_is_decided_as_documented() {
        use RDKafkaErrorCode as E;
        for code in [E::MessageSizeTooLarge, E::MessageBatchTooLarge] {
            assert!(matches!(decision(code), Split(_)), "{code:?}");
        }
        for code in [E::InvalidRecord, E::InvalidTimestamp, E::InvalidTopic] {
            assert!(matches!(decision(code), Refuse(_)), "{code:?}");
        }
        assert!(matches!(decision(E::TopicAuthorizationFailed), Park(_)));
        assert_eq!(decision(E::UnknownTopicOrPartition), Look);
        assert_eq!(decision(E::UnknownProducerId), Fatal);
        assert_eq!(decision(E::End), Retry, "a code without a decision");
        assert!(text(E::End).contains("does not know"));
    }
}
