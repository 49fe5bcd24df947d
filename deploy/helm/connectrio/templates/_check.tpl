{{- /* what the chart refuses, and what to do instead */}}

{{- define "connectrio.check" -}}
{{- $values := .Values -}}

{{- /* values of Flyte's own charts, all in one message */}}
{{- $theirs := list -}}
{{- range $name, $instead := dict
  "configPath" "connectrio reads no files there. Give settings in `settings`"
  "extraArgs" "give them in `settings`: `--worker 20` is `settings: {worker: 20}`"
  "connectorSecret" "use `connectorSecrets: {NAME: {stringData: {KEY: …}}}`, whose files are /etc/secrets/NAME/KEY. With `mountPath: /etc/secrets` they stay where they were"
  "agentSecret" "use `connectorSecrets: {NAME: {stringData: {KEY: …}}}`, whose files are /etc/secrets/NAME/KEY. With `mountPath: /etc/secrets` they stay where they were"
  "forceNamespace" "use helm's --namespace"
  "flyteconnector" "it is the part of Flyte's chart. Move what is below it to the top, without `enabled`"
}}
{{- if get $values $name }}{{ $theirs = append $theirs (printf "%s is a value of flyteconnector that this chart does not have: %s" $name $instead) }}{{ end -}}
{{- end -}}
{{- if $theirs }}{{ fail (join "\n" $theirs) }}{{ end -}}

{{- /* settings that other values decide */}}
{{- range $name, $instead := dict
  "port" "ports.containerPort" "prometheus_port" "ports.metricsPort" "processes" "processes" "job_store" "jobStore"
  "tls_cert" "tls" "tls_key" "tls"
}}
{{- if hasKey $values.settings $name }}{{ fail (printf "settings.%s cannot be given: use the value %s, which other objects need too" $name $instead) }}{{ end -}}
{{- end -}}
{{- range $name := list "config" "host" "timeout" }}
{{- if hasKey $values.settings $name }}{{ fail (printf "settings.%s makes no sense in a pod: leave it out" $name) }}{{ end -}}
{{- end -}}
{{- $names := list -}}
{{- if kindIs "map" $values.podEnv }}{{ $names = keys $values.podEnv }}{{ else }}{{ range $values.podEnv }}{{ $names = append $names .name }}{{ end }}{{ end -}}
{{- range $names -}}
{{- if and (hasPrefix "CONNECTRIO_" .) (not (hasPrefix "CONNECTRIO_DUCKDB_" .)) -}}
{{- fail (printf "podEnv has %s, which is a setting: give it as settings.%s, so that the chart can check it" . (trimPrefix "CONNECTRIO_" . | lower)) -}}
{{- end -}}
{{- end -}}

{{- /* replicas, budgets, scale */}}
{{- $replicas := include "connectrio.replicas" . | int -}}
{{- with $values.podDisruptionBudget }}{{ if and .enabled (gt $replicas 1) -}}
{{- if kindIs "invalid" .minAvailable -}}
{{- $gone := include "connectrio.pods" (list .maxUnavailable $replicas) | int -}}
{{- if eq $gone 0 }}{{ fail "podDisruptionBudget.maxUnavailable 0 lets no pod be evicted, so no node could be drained: set it to 1" }}{{ end -}}
{{- if ge $gone $replicas }}{{ fail (printf "podDisruptionBudget.maxUnavailable %v of %d pods lets all be evicted at once: set it to %d or less" .maxUnavailable $replicas (sub $replicas 1)) }}{{ end -}}
{{- else -}}
{{- $kept := include "connectrio.pods" (list .minAvailable $replicas) | int -}}
{{- if eq $kept 0 }}{{ fail (printf "podDisruptionBudget.minAvailable %v lets all pods be evicted at once: set it to 1 or more, or use maxUnavailable" .minAvailable) }}{{ end -}}
{{- if ge $kept $replicas }}{{ fail (printf "podDisruptionBudget.minAvailable %v of %d pods lets none be evicted, so no node could be drained: set it to %d or less, or use maxUnavailable" .minAvailable $replicas (sub $replicas 1)) }}{{ end -}}
{{- end -}}
{{- end }}{{ end -}}
{{- with $values.autoscaling }}{{ if .enabled -}}
{{- if not (or .targetCPUUtilizationPercentage .targetCallsInFlight) }}{{ fail "autoscaling has nothing to scale by: set autoscaling.targetCPUUtilizationPercentage or autoscaling.targetCallsInFlight" }}{{ end -}}
{{- if lt (int .maxReplicas) (int .minReplicas) }}{{ fail (printf "autoscaling.maxReplicas %v is less than autoscaling.minReplicas %v" .maxReplicas .minReplicas) }}{{ end -}}
{{- if and .targetCPUUtilizationPercentage $values.resources (not (dig "requests" "cpu" "" $values.resources)) }}{{ fail "autoscaling.targetCPUUtilizationPercentage is a share of resources.requests.cpu, which is not set: set it, or set the target to null" }}{{ end -}}
{{- end }}{{ end -}}

{{- /* ports and probes */}}
{{- if eq (int $values.ports.containerPort) (int $values.ports.metricsPort) }}{{ fail (printf "ports.containerPort and ports.metricsPort are both %v: they must differ" $values.ports.metricsPort) }}{{ end -}}
{{- if eq $values.ports.name "http" }}{{ fail "ports.name cannot be http, which is the name of the port of metrics" }}{{ end -}}
{{- with dig "grpc" dict ($values.readinessProbe | default dict) }}
{{- if $values.tls.enabled }}{{ fail "readinessProbe.grpc cannot work with TLS, which Kubernetes' gRPC probes do not speak: leave it out, and the chart probes /readyz" }}{{ end -}}
{{- if ne (int .port) (int $values.ports.containerPort) }}{{ fail (printf "readinessProbe.grpc.port is %v, and gRPC's port is %v: leave it out, or give ports.containerPort the same" .port $values.ports.containerPort) }}{{ end -}}
{{- end -}}

{{- /* TLS */}}
{{- with $values.tls -}}
{{- if and .enabled (not .existingSecret) (not .certManager.issuerRef) }}{{ fail "tls.enabled needs a certificate: name a Secret in tls.existingSecret, or cert-manager's issuer in tls.certManager.issuerRef" }}{{ end -}}
{{- if and .existingSecret .certManager.issuerRef }}{{ fail "tls.existingSecret and tls.certManager.issuerRef are two sources of one certificate: give one of them" }}{{ end -}}
{{- if and (not .enabled) (or .existingSecret .certManager.issuerRef) }}{{ fail "tls has a certificate and is off: set tls.enabled to true, or leave the certificate out" }}{{ end -}}
{{- range $name := list "prometheus_tls" "tls_client_ca" -}}
{{- if and (get $values.settings $name) (not $values.tls.enabled) }}{{ fail (printf "settings.%s needs tls.enabled" $name) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Secrets */}}
{{- with $values.jobStore -}}
{{- if regexMatch "^[a-z]+://[^/@]*:[^/@]*@" .url }}{{ fail "jobStore.url has a password, which everyone who may read pods would see: leave it out, and give jobStore.existingSecret or jobStore.password" }}{{ end -}}
{{- if and .url (not (regexMatch "^postgres(ql)?://" .url)) }}{{ fail (printf "jobStore.url must begin with postgresql://, got %s. Processes of one pod share a job store without it" .url) }}{{ end -}}
{{- if and .url .urlKey }}{{ fail "jobStore.url and jobStore.urlKey both say where the database is: give one of them" }}{{ end -}}
{{- if and .urlKey (not .existingSecret) }}{{ fail "jobStore.urlKey is a key of a Secret: name that in jobStore.existingSecret" }}{{ end -}}
{{- if and .password .existingSecret }}{{ fail "jobStore.password and jobStore.existingSecret are two sources of one password: give one of them" }}{{ end -}}
{{- if and (or .password .existingSecret) (not .url) (not .urlKey) }}{{ fail "jobStore has a Secret, but no address: give jobStore.url, or jobStore.urlKey" }}{{ end -}}
{{- end -}}
{{- range $name, $secret := $values.connectorSecrets -}}
{{- if has $name (list "stringData" "existingSecret" "mountPath") }}{{ fail (printf "connectorSecrets.%s: a NAME is missing above it: `connectorSecrets: {NAME: {%s: …}}`" $name $name) }}{{ end -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$" $name) }}{{ fail (printf "connectorSecrets.%s: a name has lower-case letters, digits and '-', and at most 42 of them. With `mountPath` the files may be anywhere" $name) }}{{ end -}}
{{- end -}}
{{- range $name, $secret := $values.connectorSecrets -}}
{{- $given := or $secret.stringData $secret.data -}}
{{- if and $given $secret.existingSecret }}{{ fail (printf "connectorSecrets.%s has both existingSecret and data of its own: give one of them" $name) }}{{ end -}}
{{- if and $given (has $name (list "tls" "job-store")) }}{{ fail (printf "connectorSecrets.%s would have the name of another object of the chart: take another name" $name) }}{{ end -}}
{{- $path := $secret.mountPath | default (printf "/etc/secrets/%s" $name) | trimSuffix "/" -}}
{{- range $other, $its := $values.connectorSecrets -}}
{{- $inner := $its.mountPath | default (printf "/etc/secrets/%s" $other) | trimSuffix "/" -}}
{{- if and (ne $other $name) (hasPrefix (printf "%s/" $path) (printf "%s/" $inner)) }}{{ fail (printf "connectorSecrets.%s is mounted at %s, and connectorSecrets.%s at %s, which is read-only: give one of them another mountPath" $other $inner $name $path) }}{{ end -}}
{{- end -}}
{{- if not (or $given $secret.existingSecret) }}{{ fail (printf "connectorSecrets.%s is empty: give existingSecret, the name of a Secret, or stringData" $name) }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* a number of pods, or a share of all, which Kubernetes rounds up; takes it and the number of all */}}
{{- define "connectrio.pods" -}}
{{- $given := index . 0 | toString -}}
{{- if hasSuffix "%" $given -}}
{{ divf (mulf (trimSuffix "%" $given | float64) (index . 1)) 100 | ceil }}
{{- else -}}
{{ int $given }}
{{- end -}}
{{- end }}
