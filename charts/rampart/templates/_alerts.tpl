{{/* What every alert has: labels, and annotations with a link to its section of the runbook. */}}
{{- define "rampart.alert" -}}
labels:
  severity: {{ .severity }}
  {{- with .signal }}
  signal: {{ . }}
  {{- end }}
  {{- with .root.Values.monitoring.rules.alertLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  summary: {{ .summary | quote }}
  description: {{ .description | quote }}
  runbook_url: {{ printf "%s%s" .root.Values.monitoring.rules.runbookUrl (lower .name) | quote }}
{{- end }}
