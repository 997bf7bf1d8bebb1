//! The list of all rules, ordered by code.

use super::rule::Rule;
use super::rules::ambient;
use super::rules::application;
use super::rules::config;
use super::rules::consul;
use super::rules::dns;
use super::rules::envoy;
use super::rules::gateway_api;
use super::rules::istio;
use super::rules::istio_config;
use super::rules::linkerd;
use super::rules::network;
use super::rules::platform;
use super::rules::pods;
use super::rules::proxy;
use super::rules::rollout;
use super::rules::runtime;
use super::rules::service;
use super::rules::signals;

/// All rules. A new one is a file under `rules/` and a line here.
#[rustfmt::skip]
pub const RULES: &[&dyn Rule] = &[
    // Istio's ambient mode.
    &ambient::policy_without_waypoint::PolicyWithoutWaypoint,
    &ambient::selector_not_for_waypoint::SelectorNotForWaypoint,
    &ambient::sidecar_and_ambient::SidecarAndAmbient,
    &ambient::not_redirected::NotRedirected,
    &ambient::configuration_elsewhere::ConfigurationElsewhere,
    &ambient::waypoint_without_ambient::WaypointWithoutAmbient,

    // What applications say themselves.
    &application::calls_fail::CallsFail,
    &application::requests_answered_with_errors::RequestsAnsweredWithErrors,
    &application::errors_logged::ErrorsLogged,
    &application::latency_shift::LatencyShift,
    &application::client_timeout_too_short::ClientTimeoutTooShort,
    &application::pool_exhausted::PoolExhausted,
    &application::dependency_name_unknown::DependencyNameUnknown,
    &application::wrong_port_or_scheme_in_setting::WrongPortOrSchemeInSetting,
    &application::setting_changed::SettingChanged,
    &application::resource_limit_reached::ResourceLimitReached,
    &application::external_dependency_failing::ExternalDependencyFailing,
    &application::calls_nobody::CallsNobody,
    &application::certificate_not_accepted::CertificateNotAccepted,
    &application::message_too_large::MessageTooLarge,
    &application::pings_too_often::PingsTooOften,
    &application::method_unknown::MethodUnknown,
    &application::limited_by_callee::LimitedByCallee,
    &application::nginx_limit::NginxLimit,
    &application::connection_limit_reached::ConnectionLimitReached,
    &application::slow_calls_logged::SlowCallsLogged,

    // Configuration that pods take in.
    &config::missing_config_map::MissingConfigMap,
    &config::missing_config_map_key::MissingConfigMapKey,
    &config::missing_secret::MissingSecret,
    &config::setting_missing::SettingMissing,
    &config::setting_refused::SettingRefused,
    &config::setting_no_address::SettingNoAddress,

    // Consul.
    &consul::config_entry_not_synced::ConfigEntryNotSynced,
    &consul::intention_denies::IntentionDenies,

    // Name servers and registries.
    &dns::server_down::ServerDown,
    &dns::configuration_broken::ConfigurationBroken,
    &dns::upstream_failing::UpstreamFailing,
    &dns::api_unreadable::ApiUnreadable,
    &dns::host_network::HostNetwork,
    &dns::configuration_cut::ConfigurationCut,
    &dns::look_ups_multiplied::LookUpsMultiplied,
    &dns::look_ups_lost::LookUpsLost,
    &dns::consul_registry::ConsulRegistry,
    &dns::host_alias::HostAlias,

    // Envoy's response flags.
    &envoy::no_healthy_upstream::NoHealthyUpstream,
    &envoy::connection_refused::ConnectionRefused,
    &envoy::connection_timeout::ConnectionTimeout,
    &envoy::tls_to_plaintext::TlsToPlaintext,
    &envoy::certificate_rejected::CertificateRejected,
    &envoy::connection_failed::ConnectionFailed,
    &envoy::overflow::Overflow,
    &envoy::no_route::NoRoute,
    &envoy::no_filter_chain::NoFilterChain,
    &envoy::no_route_configuration::NoRouteConfiguration,
    &envoy::no_cluster::NoCluster,
    &envoy::retries_exhausted::RetriesExhausted,
    &envoy::upstream_timeout::UpstreamTimeout,
    &envoy::upstream_closed::UpstreamClosed,
    &envoy::upstream_reset::UpstreamReset,
    &envoy::client_gave_up::ClientGaveUp,
    &envoy::abort_injected::AbortInjected,
    &envoy::delay_injected::DelayInjected,
    &envoy::rate_limited::RateLimited,
    &envoy::rate_limit_service::RateLimitService,
    &envoy::external_authorization::ExternalAuthorization,
    &envoy::rbac_denied::RbacDenied,
    &envoy::jwt_denied::JwtDenied,
    &envoy::upstream_protocol::UpstreamProtocol,
    &envoy::downstream_protocol::DownstreamProtocol,
    &envoy::local_reset::LocalReset,
    &envoy::proxy_overloaded::ProxyOverloaded,
    &envoy::stream_cut::StreamCut,
    &envoy::dns_failed::DnsFailed,
    &envoy::application_errors::ApplicationErrors,
    &envoy::egress_blocked::EgressBlocked,
    &envoy::direct_response::DirectResponse,
    &envoy::other_flag::OtherFlag,
    &envoy::http_limit::HttpLimit,

    // The Gateway API.
    &gateway_api::backend_not_found::BackendNotFound,
    &gateway_api::reference_not_granted::ReferenceNotGranted,
    &gateway_api::no_matching_hostname::NoMatchingHostname,
    &gateway_api::parent_not_accepted::ParentNotAccepted,
    &gateway_api::negative_condition::NegativeCondition,
    &gateway_api::gateway_not_served::GatewayNotServed,
    &gateway_api::listener_invalid::ListenerInvalid,
    &gateway_api::policy_not_accepted::PolicyNotAccepted,
    &gateway_api::authority_invalid::AuthorityInvalid,
    &gateway_api::parameters_invalid::ParametersInvalid,
    &gateway_api::backend_unsupported::BackendUnsupported,
    &gateway_api::route_value_unsupported::RouteValueUnsupported,
    &gateway_api::external_backend_invalid::ExternalBackendInvalid,
    &gateway_api::inference_pool_invalid::InferencePoolInvalid,
    &gateway_api::listeners_overlap::ListenersOverlap,
    &gateway_api::clients_not_verified::ClientsNotVerified,
    &gateway_api::address_shared::AddressShared,
    &gateway_api::requests_match_no_rule::RequestsMatchNoRule,
    &gateway_api::backend_tls_fails::BackendTlsFails,
    &gateway_api::gateway_silent::GatewaySilent,

    // Istio.
    &istio::host_not_found::HostNotFound,
    &istio::destination_port_not_found::DestinationPortNotFound,
    &istio::subset_undefined::SubsetUndefined,
    &istio::subset_without_pods::SubsetWithoutPods,
    &istio::gateway_not_found::GatewayNotFound,
    &istio::gateway_host_mismatch::GatewayHostMismatch,
    &istio::gateway_selects_nothing::GatewaySelectsNothing,
    &istio::route_shadowed::RouteShadowed,
    &istio::conflicting_hosts::ConflictingHosts,
    &istio::sidecar_missing::SidecarMissing,
    &istio::port_protocol_mismatch::PortProtocolMismatch,
    &istio::egress_host_excluded::EgressHostExcluded,
    &istio::registry_only_blocks::RegistryOnlyBlocks,
    &istio::gateway_certificate_missing::GatewayCertificateMissing,
    &istio::gateway_servers_conflict::GatewayServersConflict,
    &istio::redirect_loop::RedirectLoop,
    &istio::outside_hosts_share_port::OutsideHostsSharePort,
    &istio::requests_match_no_route::RequestsMatchNoRoute,
    &istio::delegate_not_found::DelegateNotFound,
    &istio::mtls_modes_clash::MtlsModesClash,
    &istio::authorization_denies::AuthorizationDenies,
    &istio::custom_provider_unknown::CustomProviderUnknown,
    &istio::fault_injection_left_on::FaultInjectionLeftOn,
    &istio::timeout_too_short::TimeoutTooShort,
    &istio::connection_pool_too_tight::ConnectionPoolTooTight,
    &istio::idle_connections_closed::IdleConnectionsClosed,
    &istio::outlier_ejection_empties_service::OutlierEjectionEmptiesService,
    &istio::envoy_filter_rejected::EnvoyFilterRejected,
    &istio::proxy_out_of_memory::ProxyOutOfMemory,
    &istio::tls_origination_mismatch::TlsOriginationMismatch,
    &istio::rate_limit_too_low::RateLimitTooLow,
    &istio::tokens_rejected::TokensRejected,
    &istio::authorizer_unavailable::AuthorizerUnavailable,
    &istio::revision_unknown::RevisionUnknown,
    &istio::control_plane_unavailable::ControlPlaneUnavailable,
    &istio::injection_webhook_fails::InjectionWebhookFails,
    &istio::certificates_expire::CertificatesExpire,
    &istio::traffic_not_redirected::TrafficNotRedirected,
    &istio::probe_refused_by_mtls::ProbeRefusedByMtls,
    &istio::started_before_proxy::StartedBeforeProxy,
    &istio::calls_to_ended_pods::CallsToEndedPods,
    &istio::job_kept_by_proxy::JobKeptByProxy,
    &istio::headless_port_undeclared::HeadlessPortUndeclared,
    &istio::connections_pin_to_one_pod::ConnectionsPinToOnePod,
    &istio::retries_amplify::RetriesAmplify,
    &istio::streams_end_at_one_age::StreamsEndAtOneAge,
    &istio::locality_without_endpoints::LocalityWithoutEndpoints,
    &istio::remote_cluster_unreachable::RemoteClusterUnreachable,
    &istio::names_not_captured::NamesNotCaptured,
    &istio::waypoint_missing::WaypointMissing,
    &istio::runs_as_proxy::RunsAsProxy,
    &istio::session_affinity_imbalance::SessionAffinityImbalance,
    &istio::timeouts_inverted::TimeoutsInverted,
    &istio::retries_multiply::RetriesMultiply,
    &istio::proxy_throttled::ProxyThrottled,
    &istio::pool_nearly_full::PoolNearlyFull,
    &istio::failover_without_ejection::FailoverWithoutEjection,
    &istio::configuration_arrives_late::ConfigurationArrivesLate,
    &istio::attempts_do_not_fit::AttemptsDoNotFit,
    &istio::edge_waits::EdgeWaits,
    &istio::answered_by_route::AnsweredByRoute,
    &istio::port_past_the_proxy::PortPastTheProxy,
    &istio::sidecar_hands_to_nobody::SidecarHandsToNobody,
    &istio::rewrite_unknown::RewriteUnknown,
    &istio::answered_by_filter::AnsweredByFilter,
    &istio::route_not_exported::RouteNotExported,
    &istio::calls_past_the_proxy::CallsPastTheProxy,
    &istio::header_value_refused::HeaderValueRefused,
    &istio::label_switches_mtls_off::LabelSwitchesMtlsOff,
    &istio::destination_speaks_otherwise::DestinationSpeaksOtherwise,
    &istio::filter_changes_routes::FilterChangesRoutes,
    &istio::gateway_protocol_mismatch::GatewayProtocolMismatch,
    &istio::wasm_module_missing::WasmModuleMissing,
    &istio::route_leads_elsewhere::RouteLeadsElsewhere,
    &istio::entry_endpoint_unanswered::EntryEndpointUnanswered,
    &istio::identity_not_expected::IdentityNotExpected,

    // Istio's configuration as it is written.
    &istio_config::annotation_without_effect::AnnotationWithoutEffect,
    &istio_config::setting_on_its_way_out::SettingOnItsWayOut,
    &istio_config::injection_labels_contradict::InjectionLabelsContradict,
    &istio_config::namespace_outside_the_mesh::NamespaceOutsideTheMesh,
    &istio_config::objects_for_the_same_pods::ObjectsForTheSamePods,
    &istio_config::selects_no_pod::SelectsNoPod,
    &istio_config::server_certificate_not_checked::ServerCertificateNotChecked,
    &istio_config::filter_order_undefined::FilterOrderUndefined,
    &istio_config::filter_operation_ignored::FilterOperationIgnored,
    &istio_config::telemetry_without_provider::TelemetryWithoutProvider,
    &istio_config::claims_nobody_reads::ClaimsNobodyReads,
    &istio_config::selector_ignored_by_gateway::SelectorIgnoredByGateway,
    &istio_config::sidecar_where_none_runs::SidecarWhereNoneRuns,
    &istio_config::services_disagree_on_a_port::ServicesDisagreeOnAPort,
    &istio_config::proxy_image_placeholder::ProxyImagePlaceholder,
    &istio_config::proxy_image_differs::ProxyImageDiffers,
    &istio_config::injectors_overlap::InjectorsOverlap,
    &istio_config::key_fetch_unrestricted::KeyFetchUnrestricted,
    &istio_config::definition_too_old::DefinitionTooOld,
    &istio_config::outside_host_read_two_ways::OutsideHostReadTwoWays,
    &istio_config::external_name_takes_the_port::ExternalNameTakesThePort,
    &istio_config::network_registry_unknown::NetworkRegistryUnknown,
    &istio_config::subsets_skipped_at_the_gateway::SubsetsSkippedAtTheGateway,
    &istio_config::gateway_of_istios_own::GatewayOfIstiosOwn,
    &istio_config::namespace_unknown::NamespaceUnknown,
    &istio_config::http_method_unknown::HttpMethodUnknown,
    &istio_config::destination_rules_collide::DestinationRulesCollide,
    &istio_config::mesh_wide_sidecar_with_selector::MeshWideSidecarWithSelector,
    &istio_config::principal_unknown::PrincipalUnknown,
    &istio_config::subset_of_everything::SubsetOfEverything,
    &istio_config::sidecar_host_unknown::SidecarHostUnknown,
    &istio_config::policy_host_unknown::PolicyHostUnknown,
    &istio_config::identity_without_mtls::IdentityWithoutMtls,
    &istio_config::tls_settings_hidden::TlsSettingsHidden,
    &istio_config::workload_group_account_unknown::WorkloadGroupAccountUnknown,
    &istio_config::workload_groups_alike::WorkloadGroupsAlike,
    &istio_config::schema_violated::SchemaViolated,
    &istio_config::schema_violated::SchemaWarned,

    // Linkerd.
    &linkerd::failfast::LinkerdFailfast,
    &linkerd::policy_denies::LinkerdPolicyDenies,
    &linkerd::protocol_not_detected::ProtocolNotDetected,
    &linkerd::mirror_without_endpoints::MirrorWithoutEndpoints,

    // Network policies and DNS.
    &network::network_policy_blocks::NetworkPolicyBlocks,
    &network::mesh_port_blocked::MeshPortBlocked,
    &network::large_transfers_stall::LargeTransfersStall,
    &network::connection_table_full::ConnectionTableFull,

    // Quotas, admission, budgets, autoscalers, certificates, jobs, nodes.
    &platform::quota_exceeded::QuotaExceeded,
    &platform::limit_range::LimitRangeViolated,
    &platform::disruption_budget::DisruptionBudgetBlocks,
    &platform::autoscaler_cannot_scale::AutoscalerCannotScale,
    &platform::autoscaler_at_max::AutoscalerAtMax,
    &platform::node_not_ready::NodeNotReady,
    &platform::webhook_fails::WebhookFails,
    &platform::admission_denied::AdmissionDenied,
    &platform::pod_security::PodSecurityRefuses,
    &platform::admission_reference::AdmissionReferenceMissing,
    &platform::namespace_terminating::NamespaceTerminating,
    &platform::certificate::CertificateNotReady,
    &platform::api_service::ApiServiceDown,
    &platform::node_flapping::NodeFlapping,
    &platform::node_out_of_memory::NodeOutOfMemory,
    &platform::forbidden::Forbidden,
    &platform::job_failed::JobFailed,
    &platform::leader_lost::LeaderLost,
    &platform::cron_job_skips::CronJobSkips,
    &platform::api_throttled::ApiThrottled,
    &platform::node_starved::NodeStarved,
    &platform::held_by_finalizers::HeldByFinalizers,
    &platform::api_removed::ApiRemoved,
    &platform::daemon_missing::DaemonMissing,
    &platform::pod_invalid::PodInvalid,

    // Pods.
    &pods::crash_loop::CrashLoop,
    &pods::out_of_memory::OutOfMemory,
    &pods::image_pull::ImagePull,
    &pods::config_error::ContainerConfigError,
    &pods::unschedulable::Unschedulable,
    &pods::evicted::Evicted,
    &pods::liveness_probe::LivenessProbe,
    &pods::readiness_probe::ReadinessProbe,
    &pods::init_stuck::InitStuck,
    &pods::volume::VolumeNotMounted,
    &pods::cpu_throttled::CpuThrottled,
    &pods::killed_inside::KilledInside,
    &pods::sandbox::SandboxFails,
    &pods::stuck_terminating::StuckTerminating,
    &pods::nobody_schedules::NobodySchedules,
    &pods::disrupted::Disrupted,
    &pods::one_place::OnePlace,
    &pods::readiness_flaps::ReadinessFlaps,
    &pods::volume_full::VolumeFull,
    &pods::held_back::HeldBack,
    &pods::rejected_by_kubelet::RejectedByKubelet,

    // What proxies say of themselves.
    &proxy::configuration_refused::ConfigurationRefused,
    &proxy::configuration_not_acknowledged::ConfigurationNotAcknowledged,
    &proxy::hosts_ejected::HostsEjected,
    &proxy::certificate_expiring::CertificateExpiring,
    &proxy::pool_full::PoolFull,
    &proxy::connections_fail::ConnectionsFail,
    &proxy::route_without_cluster::RouteWithoutCluster,
    &proxy::endpoints_differ::EndpointsDiffer,
    &proxy::waiting_for_certificate::WaitingForCertificate,
    &proxy::version_skew::VersionSkew,
    &proxy::not_live::NotLive,

    // Rollouts.
    &rollout::rollout_stuck::RolloutStuck,
    &rollout::scaled_to_zero::ScaledToZero,
    &rollout::failures_since_rollout::FailuresSinceRollout,
    &rollout::ordered_update_blocked::OrderedUpdateBlocked,
    &rollout::paused::RolloutPaused,
    &rollout::not_observed::NotObserved,
    &rollout::refused_since_rollout::RefusedSinceRollout,

    // Runtimes.
    &runtime::collections::Collections,
    &runtime::worker_threads::WorkerThreads,
    &runtime::deadlock::Deadlock,
    &runtime::requests_panic::RequestsPanic,
    &runtime::event_loop_blocked::EventLoopBlocked,
    &runtime::workers_killed::WorkersKilled,
    &runtime::goroutines_leak::GoroutinesLeak,
    &runtime::shared_map::SharedMap,
    &runtime::pool_counted::PoolCounted,
    &runtime::limits_counted::LimitsCounted,

    // What deviates in series, logs and spans.
    &signals::resource_strained::ResourceStrained,
    &signals::slow_by_itself::SlowByItself,
    &signals::fails_by_itself::FailsByItself,
    &signals::load_surge::LoadSurge,
    &signals::gone_silent::GoneSilent,
    // Services and endpoints.
    &service::selector_matches_nothing::SelectorMatchesNothing,
    &service::no_ready_endpoints::NoReadyEndpoints,
    &service::target_port_not_served::TargetPortNotServed,
    &service::named_port_missing::NamedPortMissing,
    &service::external_name_unresolvable::ExternalNameUnresolvable,
    &service::app_listens_on_localhost::AppListensOnLocalhost,
    &service::ingress_backend::IngressBackendMissing,
    &service::ingress_class::IngressClassMissing,
    &service::local_policy::LocalTrafficPolicy,
    &service::stale_endpoints::StaleEndpoints,
    &service::load_balancer::LoadBalancerPending,
    &service::publishes_not_ready::PublishesNotReady,
    &service::service_port_missing::ServicePortMissing,
    &service::one_pod_takes_most::OnePodTakesMost,
    &service::endpoints_by_hand::EndpointsByHand,
    &service::selector_too_broad::SelectorTooBroad,
    &service::protocol_differs::ProtocolDiffers,
    &service::listens_elsewhere::ListensElsewhere,
    &service::nothing_behind::NothingBehind,
    &service::headless_other_port::HeadlessOtherPort,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::rule::Meta;

    #[test]
    fn codes_are_unique_and_sorted() {
        let codes: Vec<_> = RULES.iter().map(|rule| rule.meta().code).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
    }

    #[test]
    fn names_are_unique_and_in_kebab_case() {
        let mut names: Vec<_> = RULES.iter().map(|rule| rule.meta().name).collect();
        for name in &names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }

    #[test]
    fn docs_have_every_heading_in_order_with_text_below() {
        for rule in RULES {
            let meta = rule.meta();
            let mut rest = meta.docs;
            for heading in Meta::HEADINGS {
                let (_, after) = rest
                    .split_once(&format!("## {heading}\n"))
                    .unwrap_or_else(|| panic!("{}: no heading {heading:?} in its place", meta.code));
                assert!(
                    after.trim_start().starts_with(|c: char| c != '#'),
                    "{}: nothing under {heading:?}",
                    meta.code
                );
                rest = after;
            }
        }
    }
}
