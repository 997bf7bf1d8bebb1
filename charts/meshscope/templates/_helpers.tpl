{{- define "meshscope.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, or both names where it does not tell what it is. 40 characters leave room for suffixes. */}}
{{- define "meshscope.fullname" -}}
{{- $name := include "meshscope.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Cluster-scoped objects of two releases of one name must not meet. */}}
{{- define "meshscope.clusterName" -}}
{{- $name := include "meshscope.fullname" . -}}
{{- ternary $name (printf "%s-%s" .Release.Namespace $name) (eq $name .Release.Namespace) -}}
{{- end -}}

{{- define "meshscope.selectorLabels" -}}
app.kubernetes.io/name: {{ include "meshscope.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "meshscope.labels" -}}
{{ include "meshscope.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "meshscope.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "meshscope.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "meshscope.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry -}}
{{- $name := ternary .Values.image.repository (printf "%s/%s" $registry .Values.image.repository) (empty $registry) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The operator's service account, as the subject of a binding. */}}
{{- define "meshscope.subjects" -}}
- kind: ServiceAccount
  name: {{ include "meshscope.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* Where a credential of a source is mounted: by the source's place in the list, since names need not be file names. */}}
{{- define "meshscope.sourceFolder" -}}
/var/run/meshscope/sources/{{ . }}
{{- end -}}
