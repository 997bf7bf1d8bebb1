{{- define "meshscope.rules" -}}
{{- range .rules }}
{{ $.root.Files.Get (printf "files/rules/%s.yaml" .) | trim | indent 2 }}
{{- end }}
{{- end -}}

{{/* A ClusterRole of the operator and its binding: dict root, suffix, rules. */}}
{{- define "meshscope.clusterRole" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
  labels:
    {{- include "meshscope.labels" .root | nindent 4 }}
rules:
  {{- include "meshscope.rules" . }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
  labels:
    {{- include "meshscope.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
subjects:
  {{- include "meshscope.subjects" .root | nindent 2 }}
{{- end }}

{{/* A Role of the operator and its binding: dict root, suffix, rules, namespace. */}}
{{- define "meshscope.role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
  namespace: {{ .namespace }}
  labels:
    {{- include "meshscope.labels" .root | nindent 4 }}
rules:
  {{- include "meshscope.rules" . }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
  namespace: {{ .namespace }}
  labels:
    {{- include "meshscope.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "meshscope.clusterName" .root }}{{ .suffix }}
subjects:
  {{- include "meshscope.subjects" .root | nindent 2 }}
{{- end }}
