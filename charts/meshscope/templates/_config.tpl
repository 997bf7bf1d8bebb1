{{/* The operator's configuration file, but for its log. */}}
{{- define "meshscope.config" -}}
watchNamespaces: {{ toJson .Values.watchNamespaces }}
limits:
  maxWindow: {{ .Values.limits.maxWindow }}
  concurrentRuns: {{ int .Values.limits.concurrentRuns }}
  concurrentRunsPerNamespace: {{ int .Values.limits.concurrentRunsPerNamespace }}
  # Less than terminationGracePeriodSeconds of the pods.
  shutdownGrace: {{ sub (int .Values.terminationGracePeriodSeconds) 10 }}s
leaderElection:
  enabled: true
  leaseName: {{ include "meshscope.fullname" . }}
  namespace: {{ .Release.Namespace }}
server:
  listen: 0.0.0.0:8080
{{- if or .Values.sources.metrics .Values.rbac.proxyNamespaces }}
sources:
{{- with .Values.rbac.proxyNamespaces }}
  proxies:
    namespaces: {{ toJson . }}
{{- end }}
{{- with .Values.sources.metrics }}
  metrics:
  {{- range $index, $source := . }}
  - name: {{ $source.name }}
    url: {{ $source.url | quote }}
    {{- if $source.bearerTokenSecret }}
    bearerTokenFile: {{ include "meshscope.sourceFolder" $index }}/token
    {{- else if $source.bearerTokenFile }}
    bearerTokenFile: {{ $source.bearerTokenFile | quote }}
    {{- end }}
    {{- with $source.tenant }}
    tenant: {{ . | quote }}
    {{- end }}
    {{- with $source.matchers }}
    matchers: {{ toJson . }}
    {{- end }}
    {{- if $source.caConfigMap }}
    caFile: {{ include "meshscope.sourceFolder" $index }}/ca.crt
    {{- else if $source.caFile }}
    caFile: {{ $source.caFile | quote }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
