{{- define "vgate.enginePort" -}}5710{{- end -}}

{{- define "vgate.arguments" -}}
{{- if include "vgate.split" .root -}}
[{{ .component }}]
{{- end -}}
{{- end -}}

{{- /* Of the files that `vgate keys engine` makes, those of one side. */ -}}
{{- define "vgate.linkKeysVolume" -}}
- name: link-keys
  secret:
    secretName: {{ required "engineKeys.existingSecret: name the Secret with the keys" .root.Values.engineKeys.existingSecret }}
    defaultMode: 0440
    items:
      {{- range ternary (list "engine.key" "frontends.allow") (list "frontend.key" "engine.pub") (eq .component "engine") }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}
