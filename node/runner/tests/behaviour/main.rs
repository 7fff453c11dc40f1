//! Runner and compiler through their public doors, as processes.
//!
//! The program starts itself as runner (`runner …`), as compiler (`compile …`) and as an agent that is about to be
//! killed (`agent …`); without such a word it runs the cases, or those whose name contains the word given.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test program, which clippy does not see because it has its own main"
)]

mod compiling;
mod cpu;
mod dials;
mod exits;
mod files;
mod fixture;
mod http;
mod input;
mod joined;
mod limits;
mod names;
mod neighbours;
mod output;
mod preview0;
mod preview1_sockets;
mod processes;
mod quotas;
mod sockets;
mod stops;
mod traps;
mod zoo;

use fixture::Context;
use futures::future::BoxFuture;
use std::{env, process::ExitCode, sync::Arc, time::Duration};

type Case = (&'static str, fn(Arc<Context>) -> BoxFuture<'static, ()>);

/// No case may take longer, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(2);

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |context| Box::pin($module::$name(context)))),*]
    };
}

const CASES: &[Case] = cases![
    compiling::bombs_hit_their_limit,
    compiling::garbage_is_refused_with_the_reason,
    compiling::guests_compile_and_say_their_kind,
    compiling::what_is_no_compiler_has_failed,
    cpu::limits_hold_as_seen_from_outside,
    cpu::a_debt_is_paid,
    cpu::requests_are_weights_under_contention,
    cpu::runners_weigh_as_the_agent_says,
    cpu::a_paused_guest_burns_nothing_and_dies_at_once,
    cpu::requests_to_http_components_are_paid_by_their_container,
    cpu::guests_that_compute_do_not_delay_their_neighbours_answers,
    cpu::samples_tell_cpu_and_memory,
    cpu::an_idle_runner_does_not_wake_up,
    exits::components,
    exits::modules,
    exits::components_may_choose_their_code,
    exits::traps_say_where,
    exits::arguments_and_environment_arrive,
    exits::what_cannot_start_says_why,
    files::mounts_are_found_where_they_should_be,
    files::read_only_mounts_stay_as_they_are,
    files::guests_stay_inside_their_mounts,
    files::mounts_outside_the_volumes_are_refused,
    http::requests_are_answered_by_an_instance_each,
    http::bodies_pass_as_they_come,
    http::a_failing_guest_is_one_failed_request,
    http::bad_requests_are_refused,
    http::many_requests_share_few_instances,
    http::busy_requests_starve_nobody,
    http::a_client_that_leaves_keeps_nobody_out,
    http::memory_counts_over_all_instances,
    http::stacks_count,
    http::stop_lets_requests_finish,
    http::kill_ends_everything,
    http::without_a_port_of_its_own_it_does_not_start,
    http::requests_go_out_through_the_pod_network,
    http::https_needs_authorities_and_trusts_only_them,
    input::bytes_arrive_and_then_the_end,
    input::a_guest_that_does_not_read_fills_nothing,
    input::a_stop_ends_it,
    joined::it_has_what_its_target_has,
    joined::it_ends_with_its_target,
    joined::it_counts_into_its_targets_memory,
    joined::it_writes_no_more_than_is_read,
    joined::there_is_a_bound_and_a_condition,
    joined::it_has_a_terminal_and_variables_of_its_own,
    joined::a_signal_ends_it_and_is_told,
    limits::memory_beyond_the_limit_kills,
    limits::a_spinning_guest_starves_nobody_and_dies_at_once,
    limits::a_full_runner_refuses,
    names::the_agent_answers,
    names::a_guest_can_wait_for_a_name,
    names::a_guest_that_waits_for_an_answer_can_be_killed,
    sockets::what_must_hold_inside_a_pod_holds,
    sockets::a_pod_without_an_address_has_localhost,
    sockets::containers_of_a_pod_share_localhost,
    sockets::bytes_arrive_in_order_over_many_connections,
    sockets::blocked_guests_can_be_killed,
    sockets::what_a_run_had_open_closes_with_it,
    sockets::a_flood_is_bounded_and_reported,
    sockets::what_was_written_arrives_after_the_end,
    dials::the_agent_connects_guests,
    dials::failures_have_their_own_errors,
    dials::a_killed_guest_withdraws,
    dials::without_a_channel_nothing_is_reachable,
    dials::connections_are_offered_to_listeners,
    dials::a_full_backlog_refuses,
    dials::a_stopping_guest_takes_no_new_connections,
    dials::a_guest_that_waits_for_connections_learns_that_it_is_to_stop,
    dials::unread_input_resets_the_peer,
    dials::a_peer_that_never_reads_stops_the_writer,
    dials::a_socket_of_the_machine_works_as_well,
    dials::datagrams_go_both_ways,
    dials::floods_of_datagrams_are_lost,
    dials::nothing_leaks,
    dials::garbage_ends_the_runner,
    output::streams_arrive_in_order_and_before_the_end,
    output::end_of_input_asks_to_stop,
    output::large_writes_are_cut_in_pieces,
    output::a_flood_waits_for_the_agent,
    preview0::what_preview1_changed_is_as_it_was,
    preview1_sockets::listeners_come_behind_the_directories,
    preview1_sockets::a_module_can_wait_in_each_call,
    preview1_sockets::a_module_can_wait_for_many_connections_at_once,
    preview1_sockets::calls_mean_what_they_mean_elsewhere,
    preview1_sockets::descriptors_have_a_bound,
    preview1_sockets::ports_are_taken_once_in_a_pod,
    preview1_sockets::go_serves_with_its_own_http,
    traps::each_kind_says_what_and_where,
    traps::without_names_it_is_the_offset,
    traps::data_that_does_not_fit_is_a_trap,
    traps::names_are_readable_and_bounded,
    traps::components_trap_as_well,
    zoo::growing_is_ended_there_and_then,
    zoo::what_a_file_call_copies_counts,
    zoo::waits_and_listings_count,
    zoo::what_calls_of_components_copy_counts,
    zoo::paths_that_no_kernel_takes_are_refused,
    zoo::what_a_run_is_given_counts,
    zoo::what_the_runner_keeps_counts,
    zoo::recursion_ends_soon_and_costs_little,
    zoo::one_guest_takes_only_its_share_of_the_pool,
    zoo::together_they_have_a_ceiling,
    zoo::bad_pointers_harm_nobody,
    zoo::waiting_for_too_much_is_refused,
    zoo::names_that_lead_elsewhere,
    zoo::special_files_hold_nobody_up,
    zoo::directories_may_move_while_they_are_read,
    stops::nothing_that_a_module_does_outlives_a_kill,
    stops::limits_do_not_delay_a_kill,
    stops::a_request_does_not_outlive_a_kill,
    stops::a_kill_does_not_wait_for_a_bulk_instruction,
    stops::neighbours_do_not_wait_for_bulk_instructions,
    stops::guests_that_wait_for_a_pipe_die,
    stops::guests_that_wait_for_a_socket_die,
    stops::a_request_that_nobody_answers_dies_with_its_guest,
    quotas::a_full_volume_says_so_and_what_goes_makes_room,
    quotas::names_have_a_price_and_a_bound,
    quotas::containers_of_a_pod_share_a_volumes_room,
    quotas::names_do_not_move_between_volumes,
    quotas::files_without_names_and_holes_count,
    quotas::pods_have_a_limit_over_their_volumes,
    processes::a_pool_fits_the_address_space,
    processes::a_runner_has_nothing_to_steal,
    processes::a_runner_gives_up_what_its_starter_has,
    processes::a_runner_at_rest_gives_back_what_it_needed_before,
    processes::a_runner_that_dies_ends_its_frames,
    processes::a_small_address_space_is_enough,
    processes::a_dropped_runner_dies,
    processes::a_runner_dies_with_its_agent,
    processes::what_is_no_runner_is_not_ready,
    processes::a_runner_that_breaks_the_protocol_is_killed,
];

fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match words.first().map(String::as_str) {
        Some("runner") => coracle_runner::child::main(&words[1..]),
        Some("compile") => coracle_runner::compile::main(&words[1..]),
        Some("agent") => processes::agent(&words[1..]),
        Some("measure") => runtime().block_on(fixture::measure(Arc::new(Context::new()))),
        _ => run_cases(words.iter().find(|word| !word.starts_with('-')).map_or("", String::as_str)),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn run_cases(filter: &str) -> ExitCode {
    let runtime = runtime();
    let context = Arc::new(Context::new());
    let mut failed = Vec::new();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let case = case(Arc::clone(&context));
        let run = runtime.spawn(async { tokio::time::timeout(PATIENCE, case).await });
        let verdict = match runtime.block_on(run) {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED: it took too long",
            Err(_) => "FAILED",
        };
        println!("test {name} ... {verdict}");
        if verdict != "ok" {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}
