{{- define "vgate.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- define "vgate.split" -}}
{{- if eq .Values.mode "split" }}true{{ end -}}
{{- end -}}

{{- /* The name of the pods with engines, and of what belongs to them. */ -}}
{{- define "vgate.engineName" -}}
{{- include "vgate.name" . -}}{{- if include "vgate.split" . }}-engine{{ end -}}
{{- end -}}

{{- /* The component that serves HTTP. */ -}}
{{- define "vgate.httpComponent" -}}
{{- ternary "frontend" "engine" (eq .Values.mode "split") -}}
{{- end -}}

{{- define "vgate.serviceAccount" -}}
{{- default (ternary (include "vgate.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "vgate.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "vgate.selector" . }}
{{- end -}}

{{- define "vgate.selector" -}}
app.kubernetes.io/name: vgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vgate.image" -}}
{{- $image := .root.Values.image -}}
{{- $light := or .root.Values.dryRun (eq .component "frontend") -}}
{{- $digest := ternary $image.frontendDigest $image.digest (eq .component "frontend") -}}
{{- $image.repository -}}
{{- if $digest }}@{{ $digest }}
{{- else }}:{{ default .root.Chart.AppVersion $image.tag }}-{{ ternary "cpu" "gpu" $light }}
{{- end -}}
{{- end -}}

{{- define "vgate.keysSecret" -}}
{{- if .Values.apiKeys.content -}}
{{- if .Values.apiKeys.existingSecret }}{{ fail "apiKeys: set existingSecret or content, not both" }}{{ end -}}
{{- include "vgate.name" . }}-keys
{{- else -}}
{{- .Values.apiKeys.existingSecret -}}
{{- end -}}
{{- end -}}

{{- /* config.yaml: the values', over what a pod needs. */ -}}
{{- define "vgate.config" -}}
{{- $drain := dict "drain_delay_s" .Values.drain.delaySeconds "drain_timeout_s" .Values.drain.timeoutSeconds -}}
{{- $own := dict "server" $drain "logging" (dict "json_format" true) -}}
{{- if include "vgate.keysSecret" . -}}
{{- $_ := set $own "security" (dict "enabled" true "key_file" (printf "/etc/vgate/keys/%s" .Values.apiKeys.file)) -}}
{{- end -}}
{{- if include "vgate.split" . -}}
{{- $address := printf "tcp://%s-pods:%s" (include "vgate.engineName" .) (include "vgate.enginePort" .) -}}
{{- $_ := set $own "engines" (list (dict "address" $address)) -}}
{{- $_ := set $own "engine_link" (dict "keys" "/etc/vgate/link-keys") -}}
{{- end -}}
{{- range (dig "security" "api_keys" (list) .Values.config) -}}
{{- if hasKey . "key" }}{{ fail "config.security.api_keys holds a key, which would be readable in a ConfigMap: use apiKeys" }}{{ end -}}
{{- end -}}
{{- range $name := list "host" "port" "run_dir" "state_dir" "drain_delay_s" "drain_timeout_s" -}}
{{- if hasKey (dig "server" (dict) $.Values.config) $name }}{{ fail (printf "config.server.%s is the chart's: see drain and service" $name) }}{{ end -}}
{{- end -}}
{{- mustMergeOverwrite $own (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{- define "vgate.scheme" -}}
{{- if dig "server" "tls" "certificate" "" .Values.config }}HTTPS{{ else }}HTTP{{ end -}}
{{- end -}}
