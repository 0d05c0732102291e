//! What every store must do that the living nodes of a cluster share, written once: whose a session is, how it moves,
//! and what becomes of what a dead node held.
//!
//! Each of [`CASES`] gets a place where nothing is stored yet: see [`Nodes`].

mod dead;
mod fixture;
mod known;
mod moves;
mod peers;
mod races;
mod seals;
mod starts;

pub use fixture::{Case, Node, Nodes};

/// Every case with its name.
pub const CASES: &[(&str, Case)] = &[
    ("at_start_a_node_finds_its_own_sessions", starts::at_start_a_node_finds_its_own_sessions),
    (
        "of_two_retained_messages_the_later_version_wins",
        starts::of_two_retained_messages_the_later_version_wins,
    ),
    (
        "what_was_given_up_and_taken_by_nobody_is_taken_back",
        moves::what_was_given_up_and_taken_by_nobody_is_taken_back,
    ),
    (
        "a_session_moves_there_and_back_with_everything_it_has",
        moves::a_session_moves_there_and_back_with_everything_it_has,
    ),
    ("of_two_that_take_a_session_one_gets_it", moves::of_two_that_take_a_session_one_gets_it),
    (
        "a_move_that_was_cut_short_leaves_a_session_with_one_holder",
        moves::a_move_that_was_cut_short_leaves_a_session_with_one_holder,
    ),
    (
        "what_a_successor_got_moves_on_with_its_queue",
        moves::what_a_successor_got_moves_on_with_its_queue,
    ),
    (
        "a_queue_that_moves_again_and_again_stays_whole",
        moves::a_queue_that_moves_again_and_again_stays_whole,
    ),
    (
        "who_seals_a_dead_node_has_all_that_it_held",
        seals::who_seals_a_dead_node_has_all_that_it_held,
    ),
    (
        "who_stopped_cleanly_is_sealed_at_once_and_who_is_sealed_is_anothers",
        seals::who_stopped_cleanly_is_sealed_at_once_and_who_is_sealed_is_anothers,
    ),
    (
        "what_a_frozen_node_writes_late_is_not_acknowledged_and_not_seen",
        seals::what_a_frozen_node_writes_late_is_not_acknowledged_and_not_seen,
    ),
    (
        "what_is_sealed_and_not_drained_goes_on_to_who_seals_the_successor",
        seals::what_is_sealed_and_not_drained_goes_on_to_who_seals_the_successor,
    ),
    (
        "wills_that_several_lost_nodes_have_left_are_all_due",
        seals::wills_that_several_lost_nodes_have_left_are_all_due,
    ),
    (
        "batches_of_other_nodes_are_known_to_who_seals_the_one_that_stored_them",
        peers::batches_of_other_nodes_are_known_to_who_seals_the_one_that_stored_them,
    ),
    (
        "open_publishes_are_known_until_they_are_everywhere",
        peers::open_publishes_are_known_until_they_are_everywhere,
    ),
    (
        "who_seals_a_dead_node_has_its_dead_letters",
        dead::who_seals_a_dead_node_has_its_dead_letters,
    ),
    (
        "every_other_incarnation_is_known_with_its_owner",
        known::every_other_incarnation_is_known_with_its_owner,
    ),
    ("nobody_seals_itself_or_one_that_never_was", known::nobody_seals_itself_or_one_that_never_was),
    (
        "what_the_sessions_of_a_lineage_want_is_known_to_all",
        known::what_the_sessions_of_a_lineage_want_is_known_to_all,
    ),
    (
        "of_two_that_seal_a_dead_node_one_has_all_of_it",
        races::of_two_that_seal_a_dead_node_one_has_all_of_it,
    ),
    (
        "of_a_start_and_a_seal_at_once_one_has_all_of_it",
        races::of_a_start_and_a_seal_at_once_one_has_all_of_it,
    ),
    (
        "of_a_take_and_a_seal_at_once_one_has_the_session",
        races::of_a_take_and_a_seal_at_once_one_has_the_session,
    ),
    (
        "what_ends_behind_the_lease_is_not_acknowledged",
        races::what_ends_behind_the_lease_is_not_acknowledged,
    ),
    ("who_dies_at_work_leaves_no_hole", races::who_dies_at_work_leaves_no_hole),
];
