{{- /* the host's container: its environment, probes, mounts */}}

{{- /* a value of a setting as the text of a variable */}}
{{- define "connectrio.text" -}}
{{- if kindIs "bool" . -}}
{{ ternary "1" "0" . }}
{{- else if kindIs "slice" . -}}
{{ join " " . }}
{{- else if kindIs "string" . -}}
{{ . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}

{{- define "connectrio.env" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "drain_delay" (include "connectrio.drainDelay" .) -}}
{{- if ne (int .Values.ports.containerPort) 8000 }}{{ $_ = set $settings "port" .Values.ports.containerPort }}{{ end -}}
{{- if ne (int .Values.ports.metricsPort) 9090 }}{{ $_ = set $settings "prometheus_port" .Values.ports.metricsPort }}{{ end -}}
{{- if gt (int .Values.processes) 1 }}{{ $_ = set $settings "processes" .Values.processes }}{{ end -}}
{{- if .Values.jobStore.url }}{{ $_ = set $settings "job_store" .Values.jobStore.url }}{{ end -}}
{{- if .Values.tls.enabled -}}
{{- $_ = set $settings "tls_cert" "/etc/connectrio/tls/tls.crt" -}}
{{- $_ = set $settings "tls_key" "/etc/connectrio/tls/tls.key" -}}
{{- end -}}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
- {name: CONNECTRIO_{{ upper $name }}, value: {{ include "connectrio.text" $value | quote }}}
{{- end }}
{{- end }}
{{- with .Values.jobStore }}
{{- if .urlKey }}
- name: CONNECTRIO_JOB_STORE
  valueFrom:
    secretKeyRef: {name: {{ include "connectrio.jobStoreSecret" $ }}, key: {{ .urlKey }}}
{{- else if or .existingSecret .password }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "connectrio.jobStoreSecret" $ }}, key: {{ .passwordKey }}}
{{- end }}
{{- end }}
# the root file system is read-only, and clients of other systems write to their home
- {name: HOME, value: /tmp}
{{- if kindIs "map" .Values.podEnv }}
{{- range $name, $value := .Values.podEnv }}
- {name: {{ $name }}, value: {{ include "connectrio.text" $value | quote }}}
{{- end }}
{{- else }}
{{- with .Values.podEnv }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}
{{- end }}

{{- /* a probe: takes root, probe (its value), and kind: grpc, or a path */}}
{{- define "connectrio.probe" -}}
{{- $ := .root -}}
{{- $probe := deepCopy (.probe | default dict) -}}
{{- if not (or $probe.grpc $probe.httpGet $probe.tcpSocket $probe.exec) -}}
{{- if eq .kind "grpc" -}}
{{- $_ := set $probe "grpc" (dict "port" $.Values.ports.containerPort) -}}
{{- else -}}
{{- $get := dict "path" .kind "port" "http" -}}
{{- if eq (include "connectrio.metricsScheme" $) "HTTPS" }}{{ $_ := set $get "scheme" "HTTPS" }}{{ end -}}
{{- $_ := set $probe "httpGet" $get -}}
{{- end -}}
{{- end -}}
{{ tpl (toYaml $probe) $ }}
{{- end }}

{{- /* by default for each process 250m CPU and 128Mi memory, at most 512Mi; a host without CPU time misses deadlines */}}
{{- define "connectrio.resources" -}}
{{- $processes := int .Values.processes -}}
{{- if .Values.resources -}}
{{ toYaml .Values.resources }}
{{- else -}}
requests: {cpu: {{ mul 250 $processes }}m, memory: {{ mul 128 $processes }}Mi}
limits: {memory: {{ mul 512 $processes }}Mi}
{{- end -}}
{{- end }}

{{- /* files of Secrets belong to root and to fsGroup; without that, the host's user is one of the others */}}
{{- define "connectrio.secretMode" -}}
{{ ternary "0440" "0444" (hasKey (.Values.podSecurityContext | default dict) "fsGroup") }}
{{- end }}

{{- define "connectrio.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "connectrio.tlsSecret" . }}, defaultMode: {{ include "connectrio.secretMode" . }}}
{{- end }}
{{- range $name, $secret := .Values.connectorSecrets }}
- name: secret-{{ $name }}
  secret:
    secretName: {{ $secret.existingSecret | default (printf "%s-%s" (include "connectrio.fullname" $) $name) }}
    defaultMode: {{ include "connectrio.secretMode" $ }}
{{- end }}
{{- with .Values.additionalVolumes }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- define "connectrio.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/connectrio/tls, readOnly: true}
{{- end }}
{{- range $name, $secret := .Values.connectorSecrets }}
- {name: secret-{{ $name }}, mountPath: {{ $secret.mountPath | default (printf "/etc/secrets/%s" $name) }}, readOnly: true}
{{- end }}
{{- with .Values.additionalVolumeMounts }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- /* of the Secrets that the chart makes, so that pods restart when one changes, and only then */}}
{{- define "connectrio.secretsChecksum" -}}
{{- $made := dict -}}
{{- range $name, $secret := .Values.connectorSecrets -}}
{{- if not $secret.existingSecret }}{{ $_ := set $made $name (pick $secret "stringData" "data") }}{{ end -}}
{{- end -}}
{{- if and .Values.jobStore.password (not .Values.jobStore.existingSecret) -}}
{{- $_ := set $made "jobStore" .Values.jobStore.password -}}
{{- end -}}
{{- if $made }}{{ toJson $made | sha256sum }}{{ end -}}
{{- end }}
