{{- /* how long a pod needs to end, and what cannot work */}}

{{- /* The time after SIGTERM in which calls still arrive: two periods of the probe, and with a headless Service the 30 s
       after which its clients ask DNS again, and some. */}}
{{- define "connectrio.leastDrainDelay" -}}
{{- $probes := mulf 2 (.Values.readinessProbe.periodSeconds | default 10) -}}
{{ ternary (max 35 ($probes | ceil)) ($probes | ceil) .Values.headlessService.enabled }}
{{- end }}

{{- define "connectrio.drainDelay" -}}
{{- $least := include "connectrio.leastDrainDelay" . | float64 -}}
{{- $delay := dig "drain_delay" $least .Values.settings | float64 -}}
{{- if lt $delay $least -}}
{{- $why := "calls arrive for two periods of the readiness probe after SIGTERM" -}}
{{- if .Values.headlessService.enabled -}}
{{- $why = "clients of the headless Service ask DNS for its addresses only every 30 s" -}}
{{- end -}}
{{- fail (printf "settings.drain_delay is %v, and must be at least %v: %s. Raise it, or leave it out" $delay $least $why) -}}
{{- end -}}
{{ $delay | toJson }}
{{- end }}

{{- /* after drain_delay and grace: lifespans close and connections end; 3 s each for the last spans and for a job store
       whose database does not answer; a supervisor kills its processes after 20 s, whatever they have */}}
{{- define "connectrio.closing" -}}
{{- $spans := ternary 3 0 (.Values.settings.tracing | default false) -}}
{{- $store := ternary 3 0 (or .Values.jobStore.url .Values.jobStore.urlKey | empty | not) -}}
{{ ternary 21 (add 13 $spans $store) (gt (int .Values.processes) 1) }}
{{- end }}

{{- define "connectrio.terminationGracePeriod" -}}
{{- $delay := include "connectrio.drainDelay" . | float64 -}}
{{- $grace := dig "grace" 25 .Values.settings | float64 -}}
{{- $closing := include "connectrio.closing" . | float64 -}}
{{- $needed := addf $delay $grace $closing | ceil | int -}}
{{- $given := .Values.terminationGracePeriodSeconds | default $needed | int -}}
{{- if lt $given $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, and must be at least %d: drain_delay %v + grace %v + %v s to close. Raise it, leave it out, or lower settings.grace" $given $needed $delay $grace $closing) -}}
{{- end -}}
{{ $given }}
{{- end }}
