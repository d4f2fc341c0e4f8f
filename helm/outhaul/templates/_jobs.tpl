{{/* The name of a Job that brings something up to date. A Job cannot be changed, so what it does is part of its name, and
     with it what runs it again: `rerun`, and credentials that are not the same as before. One that failed, or
     goes on failing, is replaced by an upgrade, where there is a cluster to ask: the next one has the next free name.
     Takes (dict "root" $ "name" "outhaul-topology" "does" text "rerun" text). */}}
{{- define "outhaul.jobName" -}}
{{- $credentials := index .root.Values.podAnnotations "outhaul.dev/credentials" | default "" -}}
{{- $first := printf "%s-%s" .name (printf "%s\n%s\n%s" .does .rerun $credentials | sha256sum | trunc 8) -}}
{{- $taken := dict -}}
{{- $chosen := "" -}}
{{- range (lookup "batch/v1" "Job" .root.Release.Namespace "").items -}}
{{- if hasPrefix $first .metadata.name -}}
{{- $ended := "" -}}
{{- range .status.conditions -}}
{{- if and (has .type (list "Complete" "Failed")) (eq .status "True") -}}{{- $ended = .type -}}{{- end -}}
{{- end -}}
{{- $well := or (eq $ended "Complete") (not (or $ended .status.failed)) -}}
{{- if and $well (not .metadata.deletionTimestamp) -}}
{{- $chosen = .metadata.name -}}
{{- else -}}
{{- $_ := set $taken .metadata.name true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $number := untilStep 1 (int (add 2 (len $taken))) 1 -}}
{{- $next := ternary $first (printf "%s-%d" $first $number) (eq $number 1) -}}
{{- if not (or $chosen (hasKey $taken $next)) -}}
{{- $chosen = $next -}}
{{- end -}}
{{- end -}}
{{- $chosen -}}
{{- end -}}

{{/* Pulumi makes a Job anew that did not become ready, as its provider's own annotation tells it. */}}
{{- define "outhaul.jobAnnotations" -}}
annotations:
  pulumi.com/replaceUnready: "true"
{{- end -}}
