//! Which of Kafka's errors is for now and which is for ever.
//!
//! The log actor sends an `Unavailable` record again and drops a `Refused` one with an error in
//! the log and a counter. So only what is the record's own fault, and will be the same next time,
//! is `Refused`; every doubt is `Unavailable`.

use hydrant_actors::ports::LogError;
use rdkafka::types::RDKafkaErrorCode;

/// What an error of one record means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it again after a reset.
    Unavailable,
    /// The topic is gone or has fewer partitions: look again, then send it again.
    UnknownTopic,
    /// The batch or the record is larger than the topic allows: smaller batches may do.
    TooLarge,
    /// Sending it again will not help, for this reason.
    Refused(&'static str),
}

/// Judges the error of one record.
pub(super) fn judge(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as E;
    match code {
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition => Verdict::UnknownTopic,
        E::MessageSizeTooLarge => Verdict::TooLarge,
        E::TopicAuthorizationFailed => Verdict::Refused(
            "Kafka does not let this broker write to the topic: give it WRITE on it",
        ),
        E::InvalidTopic => Verdict::Refused("Kafka says the topic's name is not legal"),
        E::PolicyViolation => Verdict::Refused("a policy of the Kafka cluster forbids it"),
        E::InvalidRecord => Verdict::Refused(
            "Kafka does not take the record (a compacted topic wants a key: give the route one)",
        ),
        E::InvalidTimestamp => Verdict::Refused(
            "the record's time is outside the topic's message.timestamp.before.max.ms or after.max.ms",
        ),
        E::UnsupportedForMessageFormat => {
            Verdict::Refused("the topic's message.format.version is too old for headers")
        }
        _ => Verdict::Unavailable,
    }
}

/// `Unavailable` with the code's own text.
pub(super) fn unavailable(code: RDKafkaErrorCode) -> LogError {
    LogError::Unavailable(code.to_string())
}

/// `Refused`, naming the topic.
pub(super) fn refused(topic: &str, why: &str) -> LogError {
    LogError::Refused(format!("Kafka topic {topic}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(judge(code), Verdict::Unavailable, "{code:?}");
        }
    }
}
