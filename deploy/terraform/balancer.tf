resource "google_compute_global_address" "public" {
  name       = var.name
  depends_on = [google_project_service.needed]
}

resource "google_compute_managed_ssl_certificate" "main" {
  name = var.name

  managed {
    domains = [var.domain]
  }
}

resource "google_compute_ssl_policy" "main" {
  name            = var.name
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
}

resource "google_compute_backend_service" "web" {
  name                            = "${var.name}-web"
  load_balancing_scheme           = "EXTERNAL_MANAGED"
  protocol                        = "HTTP"
  port_name                       = "http"
  timeout_sec                     = var.upload_seconds # the default of 30 s would cut every longer upload
  connection_draining_timeout_sec = var.drain_seconds
  health_checks                   = [google_compute_health_check.ready.id]
  security_policy                 = google_compute_security_policy.main.id

  backend {
    group                 = google_compute_region_instance_group_manager.web.instance_group
    balancing_mode        = "RATE"
    max_rate_per_instance = var.web.requests_second
  }

  log_config {
    enable      = true
    sample_rate = 1
  }
}

# What is for the inside stays inside.
resource "google_compute_security_policy" "main" {
  name = var.name

  rule {
    action      = "deny(404)"
    priority    = 1000
    description = "Metrics are for the people who run the service"
    match {
      expr {
        expression = "request.path.lower() == '/metrics'"
      }
    }
  }

  rule {
    action      = "allow"
    priority    = 2147483647
    description = "Everything else"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

# Only what never reached an instance is repeated: everything else may have had its effect.
resource "google_compute_url_map" "main" {
  name            = var.name
  default_service = google_compute_backend_service.web.id

  default_route_action {
    retry_policy {
      retry_conditions = ["connect-failure", "refused-stream"]
      num_retries      = 3
    }
  }
}

resource "google_compute_target_https_proxy" "main" {
  name             = var.name
  url_map          = google_compute_url_map.main.id
  ssl_certificates = [google_compute_managed_ssl_certificate.main.id]
  ssl_policy       = google_compute_ssl_policy.main.id
}

resource "google_compute_global_forwarding_rule" "https" {
  name                  = "${var.name}-https"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.public.id
  port_range            = "443"
  target                = google_compute_target_https_proxy.main.id
}

resource "google_compute_url_map" "redirect" {
  name = "${var.name}-redirect"

  default_url_redirect {
    https_redirect         = true
    strip_query            = false
    redirect_response_code = "PERMANENT_REDIRECT"
  }
}

resource "google_compute_target_http_proxy" "redirect" {
  name    = "${var.name}-redirect"
  url_map = google_compute_url_map.redirect.id
}

resource "google_compute_global_forwarding_rule" "http" {
  name                  = "${var.name}-http"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.public.id
  port_range            = "80"
  target                = google_compute_target_http_proxy.redirect.id
}

# The workers' way to the API: the same instances, inside, as http://ADDRESS:5000.
resource "google_compute_address" "internal" {
  name         = "${var.name}-api"
  region       = var.region
  subnetwork   = google_compute_subnetwork.main.id
  address_type = "INTERNAL"
  purpose      = "GCE_ENDPOINT"
}

resource "google_compute_region_backend_service" "internal" {
  name                            = "${var.name}-api"
  region                          = var.region
  load_balancing_scheme           = "INTERNAL"
  protocol                        = "TCP"
  connection_draining_timeout_sec = 60
  health_checks                   = [google_compute_health_check.ready.id]

  backend {
    group          = google_compute_region_instance_group_manager.web.instance_group
    balancing_mode = "CONNECTION"
  }
}

resource "google_compute_forwarding_rule" "internal" {
  name                  = "${var.name}-api"
  region                = var.region
  load_balancing_scheme = "INTERNAL"
  network               = google_compute_network.main.id
  subnetwork            = google_compute_subnetwork.main.id
  ip_address            = google_compute_address.internal.id
  ip_protocol           = "TCP"
  ports                 = ["5000"]
  backend_service       = google_compute_region_backend_service.internal.id
}
