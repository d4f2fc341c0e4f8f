{{/* What values.schema.json cannot say: values that contradict each other. Each failure names the way out. */}}
{{- define "outhaul.checks" -}}
{{- $v := .Values -}}
{{- if and $v.alerts.webhookUrl $v.alerts.webhookSecret.name -}}
{{- fail "alerts.webhookUrl and alerts.webhookSecret.name are both set: leave one of them empty" -}}
{{- end -}}
{{- if and $v.operator.clusterWide $v.operator.namespaces -}}
{{- fail "operator.clusterWide watches every namespace: leave operator.namespaces empty, or set clusterWide to false" -}}
{{- end -}}
{{- range $name := list "order" "waybill" -}}
{{- $f := index $v.functions $name -}}
{{- if gt (add $f.drainSeconds 5) (int64 $f.terminationGracePeriodSeconds) -}}
{{- fail (printf "functions.%s.drainSeconds %v must be at least 5 below terminationGracePeriodSeconds %v, else pods are killed while they drain" $name $f.drainSeconds $f.terminationGracePeriodSeconds) -}}
{{- end -}}
{{- include "outhaul.checkSettings" (dict "settings" $f.settings "where" (printf "functions.%s.settings" $name)) -}}
{{- end -}}
{{- include "outhaul.checkSettings" (dict "settings" $v.operator.settings "where" "operator.settings") -}}
{{- $order := $v.functions.order -}}
{{- $most := ternary $order.autoscaling.maxReplicas $order.replicas $order.autoscaling.enabled -}}
{{- include "outhaul.checkConnections" (dict "f" $order "most" $most "name" "order" "by" (ternary "functions.order.autoscaling.maxReplicas" "functions.order.replicas" $order.autoscaling.enabled)) -}}
{{- if gt $order.autoscaling.minReplicas $order.autoscaling.maxReplicas -}}
{{- fail "functions.order.autoscaling.minReplicas is above maxReplicas: lower it" -}}
{{- end -}}
{{- $keda := include "outhaul.kedaOn" . -}}
{{- $waybill := $v.functions.waybill -}}
{{- include "outhaul.checkConnections" (dict "f" $waybill "most" (ternary $v.keda.maxReplicas $waybill.replicas (not (empty $keda))) "name" "waybill" "by" (ternary "keda.maxReplicas" "functions.waybill.replicas" (not (empty $keda)))) -}}
{{- if $keda -}}
{{- with $v.keda -}}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) -}}
{{- fail (printf "keda.minReplicas %v is above keda.maxReplicas %v: lower it" .minReplicas .maxReplicas) -}}
{{- end -}}
{{- if gt (int64 .fallbackReplicas) (int64 .maxReplicas) -}}
{{- fail (printf "keda.fallbackReplicas %v is above keda.maxReplicas %v: lower it" .fallbackReplicas .maxReplicas) -}}
{{- end -}}
{{- if lt (int64 .cooldownPeriod) (mul 3 .pollingInterval .failureThreshold) -}}
{{- fail (printf "keda.cooldownPeriod %v must be at least three times pollingInterval x failureThreshold (%v), else a broker that restarts looks like an empty queue" .cooldownPeriod (mul 3 .pollingInterval .failureThreshold)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "outhaul.checkConnections" -}}
{{- $needed := mul .most (add .f.databasePoolSize 2) -}}
{{- if and (gt (int64 .f.databaseConnections) 0) (gt $needed (int64 .f.databaseConnections)) -}}
{{- fail (printf "%s %v pods of databasePoolSize %v + 2 need %v database connections, and functions.%s.databaseConnections is %v: lower the replicas or the pool, or let the database grant more" .by .most .f.databasePoolSize $needed .name .f.databaseConnections) -}}
{{- end -}}
{{- end -}}

{{- define "outhaul.checkSettings" -}}
{{- $own := list "OUTHAUL_AMQP_URL" "OUTHAUL_ORDER_DATABASE_URL" "OUTHAUL_WAYBILL_DATABASE_URL" "OUTHAUL_DATABASE_POOL_SIZE" "OUTHAUL_DRAIN_TIMEOUT" "OUTHAUL_HTTP_HOST" "OUTHAUL_HTTP_PORT" "OUTHAUL_LOG_LEVEL" "OUTHAUL_LOG_FORMAT" "OUTHAUL_ALERT_WEBHOOK_URL" "OUTHAUL_OPERATOR_NAMESPACES" "OUTHAUL_OPERATOR_IMAGE" "OUTHAUL_OPERATOR_JOB_SERVICE_ACCOUNT" "OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY" "OUTHAUL_OPERATOR_JOB_BROKER_AUTHORITY" "OUTHAUL_OPERATOR_JOB_DATABASE_AUTHORITY" "OUTHAUL_OPERATOR_MAX_JOBS" "OUTHAUL_OPERATOR_CONCURRENCY" "OUTHAUL_OPERATOR_LOOK_TIMEOUT" -}}
{{- range $name, $_ := .settings -}}
{{- if has $name $own -}}
{{- fail (printf "%s may not set %s: the chart sets it from a value of its own" $.where $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
