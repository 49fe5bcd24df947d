{{- /* names, labels and addresses */}}

{{- define "connectrio.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "connectrio.fullname" -}}
{{ .Values.fullnameOverride | default .Values.nameOverride | default .Release.Name | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- /* as in Flyte's own chart, so that this one can replace it under the same release */}}
{{- define "connectrio.selector" -}}
app.kubernetes.io/name: {{ include "connectrio.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* metadata of an object; takes root, and perhaps name or suffix, labels, annotations,
       cluster (true: no namespace) */}}
{{- define "connectrio.metadata" -}}
{{- $ := .root -}}
name: {{ .name | default (printf "%s%s" (include "connectrio.fullname" $) (.suffix | default "")) }}
{{- if not .cluster }}
namespace: {{ $.Release.Namespace }}
{{- end }}
labels:
  {{- include "connectrio.selector" $ | nindent 2 }}
  app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
  {{- with merge dict (.labels | default dict) $.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (.annotations | default dict) $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "connectrio.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "connectrio.fullname" .) }}
{{- end }}

{{- define "connectrio.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* the name of the Service that clients should call, in the whole cluster */}}
{{- define "connectrio.address" -}}
{{ include "connectrio.fullname" . }}{{ if .Values.headlessService.enabled }}-headless{{ end -}}
.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "connectrio.tlsSecret" -}}
{{ .Values.tls.existingSecret | default (printf "%s-tls" (include "connectrio.fullname" .)) }}
{{- end }}

{{- define "connectrio.jobStoreSecret" -}}
{{ .Values.jobStore.existingSecret | default (printf "%s-job-store" (include "connectrio.fullname" .)) }}
{{- end }}

{{- /* the fewest pods */}}
{{- define "connectrio.replicas" -}}
{{ ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled | int }}
{{- end }}

{{- define "connectrio.metricsScheme" -}}
{{ ternary "HTTPS" "HTTP" (.Values.settings.prometheus_tls | default false) }}
{{- end }}
