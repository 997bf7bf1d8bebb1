{{/* The operator's configuration file. */}}
{{- define "meshscope.config" -}}
watchNamespaces: {{ toJson .Values.watchNamespaces }}
limits:
  maxWindow: {{ .Values.limits.maxWindow }}
  concurrentRuns: {{ int .Values.limits.concurrentRuns }}
sources:
  {{- if not .Values.sources.metrics }}
  metrics: []
  {{- else }}
  metrics:
  {{- range $index, $source := .Values.sources.metrics }}
  - name: {{ $source.name }}
    url: {{ $source.url | quote }}
    {{- with $source.headers }}
    headers:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $source.bearerTokenSecret }}
    bearerTokenFile: {{ include "meshscope.sourceFolder" $index }}/token
    {{- else if $source.bearerTokenFile }}
    bearerTokenFile: {{ $source.bearerTokenFile | quote }}
    {{- end }}
    {{- if $source.caConfigMap }}
    caFile: {{ include "meshscope.sourceFolder" $index }}/ca.crt
    {{- else if $source.caFile }}
    caFile: {{ $source.caFile | quote }}
    {{- end }}
  {{- end }}
  {{- end }}
{{- end -}}
